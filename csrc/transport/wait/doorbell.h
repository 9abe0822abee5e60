// A doorbell lets a process sleep until another process or thread has data. It consists of a
// page of shared memory with the flag "the owner sleeps", and an eventfd that wakes the owner.
//
// The owner:   prepare_sleep(); looks for data once more; if there is none, waits for event_fd();
//              finish_sleep().
// A ringer:    writes the data; ring().
// Invariant: both sides execute a sequentially consistent fence between their write and their read.
// So either the owner sees the data in its last look, or the ringer sees that the owner sleeps.
//
// Ownership: both sides have their own mapping and eventfd. Only the owner keeps a descriptor of
// the page.
// Threading: ring() from any thread; the rest by the thread of the owner that sleeps.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/unique_fd.h"

namespace fastgpu {

class Doorbell {
 public:
  static Doorbell create();  // for the owner
  // For a ringer, from the descriptors that the owner passed. Raises RendezvousError if they are
  // not those of a doorbell.
  static Doorbell attach(UniqueFd page_fd, UniqueFd event_fd);
  Doorbell(Doorbell&& other) noexcept;
  Doorbell& operator=(Doorbell&& other) noexcept;
  ~Doorbell();

  int page_fd() const noexcept { return page_fd_.get(); }
  int event_fd() const noexcept { return event_fd_.get(); }

  // Wakes the owner if it sleeps or is about to sleep; else costs a fence and a load.
  void ring() noexcept;
  void prepare_sleep() noexcept;
  void finish_sleep() noexcept;  // also empties the eventfd

 private:
  struct Page {
    std::atomic<uint32_t> sleeping;
  };
  Doorbell(const UniqueFd& page_fd, UniqueFd event_fd);
  void unmap() noexcept;

  UniqueFd page_fd_;  // the owner's, to be passed to peers
  UniqueFd event_fd_;
  Page* page_ = nullptr;
};

}  // namespace fastgpu
