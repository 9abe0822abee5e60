// Where an engine sleeps: an epoll set of the sockets that may bring it news, and its doorbell.
// Sockets are watched edge-triggered, for input and output: a channel looks for itself, and the
// poller only says that a look may pay.
// Thread safety: add, remove and wake from any thread; sleep by one thread at a time.
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

  // Before sleeping: prepare_sleep(), one more look at everything; then sleep(), or cancel_sleep()
  // when that look found something.
  void prepare_sleep() noexcept { doorbell_.prepare_sleep(); }
  void cancel_sleep() noexcept { doorbell_.finish_sleep(); }
  void sleep(TimeNs deadline) noexcept;  // returns at news, at the deadline, or for no reason

 private:
  UniqueFd epoll_;
  Doorbell doorbell_;
};

}  // namespace fastgpu
