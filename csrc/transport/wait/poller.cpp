#include "transport/wait/poller.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>

#include "base/error.h"
#include "transport/wait/epoll.h"

namespace fastgpu {

// Level-triggered, and for input alone: an eventfd is always writable.
Poller::Poller() : epoll_(make_epoll()), doorbell_(Doorbell::create()) {
  epoll_event event{};
  event.events = EPOLLIN;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, doorbell_.event_fd(), &event) != 0)
    raise_system(ErrorKind::kRendezvous, "cannot watch a doorbell", errno);
}

void Poller::add(int fd) { watch_edges(epoll_, fd, static_cast<uint64_t>(fd)); }

void Poller::remove(int fd) noexcept {
  epoll_event unused{};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, &unused);
}

void Poller::sleep(TimeNs deadline) noexcept {
  std::array<epoll_event, 64> events;
  ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
               timeout_ms_until(deadline));
  doorbell_.finish_sleep();
}

}  // namespace fastgpu
