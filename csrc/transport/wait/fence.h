// std::atomic_thread_fence, without the warning of gcc that ThreadSanitizer does not model it. The
// warning can be ignored: every word of data is also published with release and read with acquire.
// The fences only order a write of data before a read of "is the owner asleep" or "is it closed".
#pragma once

#include <atomic>

namespace fastgpu {

inline void fence(std::memory_order order) noexcept {
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
  std::atomic_thread_fence(order);
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

}  // namespace fastgpu
