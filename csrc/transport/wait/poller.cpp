#include "transport/wait/poller.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

#include "base/error.h"

namespace fastgpu {
namespace {

// Rounded up: waking before a deadline would mean spinning until it has passed.
int timeout_ms_until(TimeNs deadline) {
  if (deadline == kNever) return -1;
  const TimeNs left = deadline - now_ns();
  if (left <= 0) return 0;
  return static_cast<int>(std::min<TimeNs>((left - 1) / kMillisecond + 1, INT_MAX));
}

void watch(int epoll, int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
    raise_system(ErrorKind::kRendezvous, "cannot watch a descriptor", errno);
}

}  // namespace

Poller::Poller() : epoll_(::epoll_create1(EPOLL_CLOEXEC)), doorbell_(Doorbell::create()) {
  if (!epoll_) raise_system(ErrorKind::kRendezvous, "cannot make an epoll set", errno);
  watch(epoll_.get(), doorbell_.event_fd(), EPOLLIN);
}

void Poller::add(int fd) { watch(epoll_.get(), fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET); }

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
