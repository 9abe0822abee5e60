// How much a TCP sender may have under way. Little: on a short path what it wrote then still lies
// in the caches when the peer reads it, and the peer's window stays small as well (measured in
// docs/performance.md). A path that holds more, because it is long and fast, is handed back to the
// kernel's own tuning. Before Linux 5.14 nothing could be handed back: there the kernel tunes all.
// Ownership: the socket stays the channel's. Threading: the channel's.
#pragma once

#include <cstdint>

namespace fastgpu {

class TcpSendBuffer {
 public:
  // What the kernel lets everybody ask for; it doubles it, for its own records.
  static constexpr int kSmallBytes = 212'992;

  // Leaves a socket alone whose buffer somebody else has set.
  explicit TcpSendBuffer(int socket, int small_bytes = kSmallBytes) noexcept;

  // The buffer took no more. Looks, now and then, whether that was the path's fault.
  void on_full() noexcept;

 private:
  int socket_;
  uint64_t size_bytes_ = 0;  // 0: the kernel's to choose
  uint32_t times_full_ = 0;
};

}  // namespace fastgpu
