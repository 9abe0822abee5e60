#include "transport/tcp/send_buffer.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

namespace fastgpu {
namespace {

constexpr uint32_t kLookEvery = 16;
// A buffer is large enough if it holds this many times the bytes on the path. The extra covers
// packets that must be sent again, and the time until the engine writes again.
constexpr double kSpare = 4;

#ifdef SO_BUF_LOCK
constexpr int kLockOption = SO_BUF_LOCK;
#else
constexpr int kLockOption = 72;  // asm-generic/socket.h, since Linux 5.14
#endif
constexpr int kSendLock = 1;

int option(int socket, int name) noexcept {
  int value = -1;
  socklen_t size = sizeof(value);
  return ::getsockopt(socket, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

// The bytes on a fully used path: its rate times its round-trip time.
double bytes_on_path(int socket) noexcept {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
  return static_cast<double>(info.tcpi_delivery_rate) * info.tcpi_min_rtt * 1e-6;
}

}  // namespace

TcpSendBuffer::TcpSendBuffer(int socket, int small_bytes) noexcept : socket_(socket) {
  const int locks = option(socket, kLockOption);
  if (locks < 0 || (locks & kSendLock) != 0) return;
  ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &small_bytes, sizeof(small_bytes));
  size_bytes_ = static_cast<uint64_t>(std::max(option(socket, SO_SNDBUF), 0));
}

void TcpSendBuffer::on_full() noexcept {
  if (size_bytes_ == 0 || ++times_full_ % kLookEvery != 0) return;
  if (kSpare * bytes_on_path(socket_) < static_cast<double>(size_bytes_)) return;
  const int locks = option(socket_, kLockOption) & ~kSendLock;
  ::setsockopt(socket_, SOL_SOCKET, kLockOption, &locks, sizeof(locks));
  size_bytes_ = 0;
}

}  // namespace fastgpu
