// Limits how many bytes of a TCP sender are on their way. On a short path a small limit is faster:
// the peer reads bytes that are still in the cache, and its window stays small too (measured in
// docs/performance.md). A long and fast path holds more than that; there the limit is removed and
// the kernel chooses. Linux before 5.14 cannot remove the limit, so there none is set.
//
// Ownership: the socket belongs to the channel. Threading: as the channel.
#pragma once

#include <cstdint>

namespace fastgpu {

class TcpSendBuffer {
 public:
  // The most that any process may ask for by default. The kernel doubles it for bookkeeping.
  static constexpr int kSmallBytes = 212'992;

  // Sets the limit, unless the buffer size of this socket was set before.
  explicit TcpSendBuffer(int socket, int small_bytes = kSmallBytes) noexcept;

  // A write was blocked. Every 16th time this tests whether the path holds more than the limit.
  void on_full() noexcept;

 private:
  int socket_;
  uint64_t size_bytes_ = 0;  // 0: the kernel chooses
  uint32_t times_full_ = 0;
};

}  // namespace fastgpu
