// Where an engine sleeps: an epoll set of its sockets, and its doorbell. Sockets are watched
// edge-triggered, for input and output. The poller only says that something may have changed; each
// channel then looks for itself.
//
// Threading: add, remove and wake from any thread; sleep by one thread at a time.
#pragma once

#include "base/clock.h"
#include "base/unique_fd.h"
#include "transport/wait/doorbell.h"

namespace fastgpu {

class Poller {
 public:
  Poller();

  void add(int fd);
  void remove(int fd) noexcept;
  void wake() noexcept { doorbell_.ring(); }
  Doorbell& doorbell() noexcept { return doorbell_; }

  // To sleep: call prepare_sleep(), look for work once more, then call sleep(), or cancel_sleep()
  // if there is work.
  void prepare_sleep() noexcept { doorbell_.prepare_sleep(); }
  void cancel_sleep() noexcept { doorbell_.finish_sleep(); }
  void sleep(TimeNs deadline) noexcept;  // returns early, too, also without a reason

 private:
  UniqueFd epoll_;
  Doorbell doorbell_;
};

}  // namespace fastgpu
