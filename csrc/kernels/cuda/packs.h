// Packs: 16 bytes, the widest access that a GPU thread makes. Kernels move all data in packs, and
// only the elements before the first 16-byte border and behind the last one by themselves.
//
// Threading: device code; any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/simt.h"

namespace fastgpu::device {

inline constexpr uint64_t kPackBytes = 16;

struct alignas(kPackBytes) Pack {
  uint32_t word[4];
};

FASTGPU_DEVICE Pack load_pack(const std::byte* source) {
  simt::expect_global(source, kPackBytes);
#if defined(__CUDACC__)
  const uint4 words = *reinterpret_cast<const uint4*>(source);
  return {{words.x, words.y, words.z, words.w}};
#else
  Pack pack;
  __builtin_memcpy(&pack, source, sizeof pack);
  return pack;
#endif
}

FASTGPU_DEVICE void store_pack(std::byte* target, const Pack& pack) {
  simt::expect_global(target, kPackBytes);
#if defined(__CUDACC__)
  *reinterpret_cast<uint4*>(target) =
      make_uint4(pack.word[0], pack.word[1], pack.word[2], pack.word[3]);
#else
  __builtin_memcpy(target, &pack, sizeof pack);
#endif
}

// One element, aligned to its size.
template <typename Storage>
FASTGPU_DEVICE Storage load_element(const std::byte* source) {
  simt::expect_global(source, alignof(Storage));
#if defined(__CUDACC__)
  return *reinterpret_cast<const Storage*>(source);
#else
  Storage element;
  __builtin_memcpy(&element, source, sizeof element);
  return element;
#endif
}

template <typename Storage>
FASTGPU_DEVICE void store_element(std::byte* target, const Storage& element) {
  simt::expect_global(target, alignof(Storage));
#if defined(__CUDACC__)
  *reinterpret_cast<Storage*>(target) = element;
#else
  __builtin_memcpy(target, &element, sizeof element);
#endif
}

}  // namespace fastgpu::device
