// Random numbers that no other process can foresee: names of sockets, marks and identities.
// Thread safety: any thread.
#pragma once

#include <cstdint>
#include <random>

namespace fastgpu {

inline uint64_t random_u64() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

}  // namespace fastgpu
