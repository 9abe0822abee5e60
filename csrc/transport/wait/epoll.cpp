#include "transport/wait/epoll.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/error.h"

namespace fastgpu {

UniqueFd make_epoll() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) raise_system(ErrorKind::kRendezvous, "cannot make an epoll set", errno);
  return epoll;
}

void watch_edges(const UniqueFd& epoll, int fd, uint64_t id) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = id;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0)
    raise_system(ErrorKind::kRendezvous, "cannot watch a descriptor", errno);
}

int timeout_ms_until(TimeNs deadline) noexcept {
  if (deadline == kNever) return -1;
  const TimeNs left = deadline - now_ns();
  if (left <= 0) return 0;
  return static_cast<int>(std::min<TimeNs>((left - 1) / kMillisecond + 1, INT_MAX));
}

}  // namespace fastgpu
