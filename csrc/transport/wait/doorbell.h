// A doorbell: how a process sleeps until another one, or another of its threads, has something for
// it. One page of shared memory that says whether the owner sleeps, and an eventfd that wakes it.
//
// The owner:   prepare_sleep(); look at everything once more; if still nothing, wait on event_fd();
//              finish_sleep().
// A ringer:    publish (write the data); ring().
// Invariant: both sides put a sequentially consistent fence between their write and their read, so
// either the owner sees the data in its last look, or the ringer sees it asleep and wakes it.
// Ownership: each side holds its own mapping and descriptors. Thread safety: ring() from any
// thread; the rest by the owner's sleeping thread.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/unique_fd.h"

namespace fastgpu {

class Doorbell {
 public:
  static Doorbell create();  // the owner's
  // A ringer's, from passed descriptors.
  static Doorbell attach(UniqueFd page_fd, UniqueFd event_fd);
  Doorbell(Doorbell&& other) noexcept;
  Doorbell& operator=(Doorbell&& other) noexcept;
  ~Doorbell();

  int page_fd() const noexcept { return page_fd_.get(); }
  int event_fd() const noexcept { return event_fd_.get(); }

  // Wakes the owner if it sleeps or is about to; else costs a fence and a load.
  void ring() noexcept;
  void prepare_sleep() noexcept;
  void finish_sleep() noexcept;  // also empties the eventfd

 private:
  struct Page {
    std::atomic<uint32_t> sleeping;
  };
  Doorbell(UniqueFd page_fd, UniqueFd event_fd);
  void unmap() noexcept;

  UniqueFd page_fd_;
  UniqueFd event_fd_;
  Page* page_ = nullptr;
};

}  // namespace fastgpu
