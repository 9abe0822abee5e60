// What a spinning thread does between two looks: leaves the core's other hardware thread its share.
#pragma once

namespace fastgpu {

inline void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

}  // namespace fastgpu
