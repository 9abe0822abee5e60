// std::atomic_thread_fence, without gcc's warning that ThreadSanitizer does not model it. Nothing
// is hidden by that: all data here is also published by release and acquire on the word that tells
// of it; the fences only order "I wrote" before "I look whether you sleep, or have closed".
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
