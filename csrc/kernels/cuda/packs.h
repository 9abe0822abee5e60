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

// Whether packs may be accessed there.
FASTGPU_DEVICE bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kPackBytes == 0;
}

FASTGPU_DEVICE Pack load_pack(const std::byte* source) { return simt::load<Pack>(source); }

FASTGPU_DEVICE void store_pack(std::byte* target, const Pack& pack) { simt::store(target, pack); }

// One element, aligned to its size.
template <typename Storage>
FASTGPU_DEVICE Storage load_element(const std::byte* source) {
  return simt::load<Storage>(source);
}

template <typename Storage>
FASTGPU_DEVICE void store_element(std::byte* target, const Storage& element) {
  simt::store(target, element);
}

// Up to 16 bytes at any address, in the widest units that the address allows. Bytes of the pack
// beyond `size_bytes` are 0.
FASTGPU_DEVICE Pack load_bytes(const std::byte* source, unsigned size_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(source);
  const bool whole = size_bytes == kPackBytes;
  if (whole && address % kPackBytes == 0) return load_pack(source);
  Pack pack{};
  if (whole && address % 4 == 0) {
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) pack.word[i] = load_element<uint32_t>(source + 4 * i);
  } else if (whole && address % 2 == 0) {
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 8; ++i) {
      const uint32_t half = load_element<uint16_t>(source + 2 * i);
      pack.word[i / 2] |= half << (16 * (i % 2));
    }
  } else {
    FASTGPU_UNROLL
    for (unsigned i = 0; i < kPackBytes; ++i) {
      const uint32_t byte = i < size_bytes ? load_element<uint8_t>(source + i) : uint8_t{0};
      pack.word[i / 4] |= byte << (8 * (i % 4));
    }
  }
  return pack;
}

FASTGPU_DEVICE void store_bytes(std::byte* target, const Pack& pack, unsigned size_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(target);
  const bool whole = size_bytes == kPackBytes;
  if (whole && address % kPackBytes == 0) {
    store_pack(target, pack);
  } else if (whole && address % 4 == 0) {
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) store_element(target + 4 * i, pack.word[i]);
  } else if (whole && address % 2 == 0) {
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 8; ++i) {
      store_element(target + 2 * i, static_cast<uint16_t>(pack.word[i / 2] >> (16 * (i % 2))));
    }
  } else {
    FASTGPU_UNROLL
    for (unsigned i = 0; i < kPackBytes; ++i) {
      if (i < size_bytes) {
        store_element(target + i, static_cast<uint8_t>(pack.word[i / 4] >> (8 * (i % 4))));
      }
    }
  }
}

}  // namespace fastgpu::device
