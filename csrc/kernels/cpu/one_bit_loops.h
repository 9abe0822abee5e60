// The codec 1bit over arrays: the signs of a block and the mean of its magnitudes.
// docs/compression.md defines the format. Part of codec_loops.h; compiled as described there.
//
// All variants add in one order: element i of a block goes to partial sum i % kRow, and the partial
// sums are added in halves.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/codec.h"
#include "kernels/cpu/block_lanes.h"
#include "kernels/kernel.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

inline constexpr std::size_t kRow = 16;
inline constexpr std::size_t kRowRegisters = kRow / kLanes;
inline constexpr std::size_t kRowBytes = kRow / 8;
// Smaller magnitudes count as 0 in the mean, so that no number in its computation is subnormal.
inline constexpr uint32_t kLeastCounted = (127 - 100) << 23;  // 2^-100

FASTGPU_INLINE std::size_t one_bit_scales_bytes(std::size_t count) {
  return (count + kOneBitBlock - 1) / kOneBitBlock * kScaleBytes;
}

FASTGPU_INLINE uint32_t read_scale(const std::byte* source) {
  uint16_t upper;
  __builtin_memcpy(&upper, source, sizeof(upper));
  return static_cast<uint32_t>(upper) << 16;
}

// Adds up a block, and finds its signs.
struct BlockSum {
  // Sums of magnitudes / kOneBitBlock: divided, they cannot overflow.
  FloatLanes partial[kRowRegisters] = {};
  IntLanes largest{};

  FASTGPU_INLINE uint16_t add(const float* row) {
    uint64_t signs = 0;
    for (std::size_t k = 0; k < kRowRegisters; ++k) {
      const auto bits = load_lanes<IntLanes>(row + k * kLanes);
      const IntLanes magnitude = bits & static_cast<int32_t>(kFloatMagnitude);
      const IntLanes counted =
          magnitude < static_cast<int32_t>(kLeastCounted) ? IntLanes{} : magnitude;
      partial[k] += __builtin_bit_cast(FloatLanes, counted) * (1.0F / kOneBitBlock);
      largest = larger(largest, magnitude);
      signs |= greater_lanes(IntLanes{}, bits) << (k * kLanes);
    }
    return static_cast<uint16_t>(signs);
  }

  // Returns the bits of the scale of `count` elements.
  FASTGPU_INLINE uint32_t scale(std::size_t count) const {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      if (static_cast<uint32_t>(largest[lane]) >= kFloatInfinity) return kNanScale;
    }
    float sums[kRow];
    for (std::size_t k = 0; k < kRowRegisters; ++k) store_lanes(sums + k * kLanes, partial[k]);
    for (std::size_t half = kRow / 2; half > 0; half /= 2) {
      for (std::size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    const float mean = sums[0] * (static_cast<float>(kOneBitBlock) / static_cast<float>(count));
    const uint32_t rounded = static_cast<uint32_t>(narrow<BFloat16>(mean)) << 16;
    return rounded > kLargestExtreme ? kLargestExtreme : rounded;
  }
};

// Returns the scale with the signs in the lowest kLanes bits.
FASTGPU_INLINE FloatLanes with_signs(uint32_t scale, uint32_t signs) {
  WordLanes lane_bits{};
  for (std::size_t lane = 0; lane < kLanes; ++lane) lane_bits[lane] = 1U << lane;
  const WordLanes negative = (lane_bits & signs) != 0 ? WordLanes{} + kFloatSign : WordLanes{};
  return ManyLanes::floats(negative ^ scale);
}

// Encodes a whole block, of which `count` elements are not padding. Returns the scale.
FASTGPU_INLINE uint32_t encode_signs(const float* values, std::byte* signs, std::size_t count) {
  BlockSum sum;
  for (std::size_t i = 0; i < kOneBitBlock; i += kRow) {
    const uint16_t row = sum.add(values + i);
    __builtin_memcpy(signs + i / 8, &row, kRowBytes);
  }
  const uint32_t scale = sum.scale(count);
  if (scale == kNanScale) __builtin_memset(signs, 0, kOneBitBlock / 8);
  return scale;
}

FASTGPU_INLINE uint32_t encode_signs_feedback(const float* source, float* residual,
                                              std::byte* signs, std::size_t count) {
  float sums[kOneBitBlock];
  for (std::size_t i = 0; i < kOneBitBlock; i += kLanes)
    store_lanes(sums + i,
                load_lanes<FloatLanes>(source + i) + load_lanes<FloatLanes>(residual + i));
  const uint32_t scale = encode_signs(sums, signs, count);
  if (scale == kNanScale) return scale;
  for (std::size_t i = 0; i < kOneBitBlock; i += kRow) {
    uint16_t row;
    __builtin_memcpy(&row, signs + i / 8, kRowBytes);
    for (std::size_t k = 0; k < kRow; k += kLanes) {
      const FloatLanes decoded = with_signs(scale, static_cast<uint32_t>(row) >> k);
      store_lanes(residual + i + k, load_lanes<FloatLanes>(sums + i + k) - decoded);
    }
  }
  return scale;
}

template <bool kFeedback>
FASTGPU_INLINE void encode_one_bit_all(const float* source, float* residual, std::byte* target,
                                       std::size_t count) {
  std::byte* signs = target + one_bit_scales_bytes(count);
  for (std::size_t i = 0; i < count; i += kOneBitBlock, target += kScaleBytes) {
    uint32_t scale;
    if (count - i >= kOneBitBlock) {
      if constexpr (kFeedback) {
        scale = encode_signs_feedback(source + i, residual + i, signs + i / 8, kOneBitBlock);
      } else {
        scale = encode_signs(source + i, signs + i / 8, kOneBitBlock);
      }
    } else {
      const std::size_t size = count - i;
      float padded[kOneBitBlock] = {};
      std::byte padded_signs[kOneBitBlock / 8];
      __builtin_memcpy(padded, source + i, size * sizeof(float));
      if constexpr (kFeedback) {
        float padded_residual[kOneBitBlock] = {};
        __builtin_memcpy(padded_residual, residual + i, size * sizeof(float));
        scale = encode_signs_feedback(padded, padded_residual, padded_signs, size);
        __builtin_memcpy(residual + i, padded_residual, size * sizeof(float));
      } else {
        scale = encode_signs(padded, padded_signs, size);
      }
      __builtin_memcpy(signs + i / 8, padded_signs, (size + 7) / 8);
    }
    const auto upper = static_cast<uint16_t>(scale >> 16);
    __builtin_memcpy(target, &upper, kScaleBytes);
  }
}

inline void encode_one_bit(const float* source, std::byte* target, std::size_t count) {
  encode_one_bit_all<false>(source, nullptr, target, count);
}

inline void encode_one_bit_feedback(const float* source, float* residual, std::byte* target,
                                    std::size_t count) {
  encode_one_bit_all<true>(source, residual, target, count);
}

template <bool kAdd>
FASTGPU_INLINE void decode_row(uint32_t scale, const std::byte* signs, float* target) {
  uint16_t row;
  __builtin_memcpy(&row, signs, kRowBytes);
  for (std::size_t k = 0; k < kRow; k += kLanes) {
    FloatLanes values = with_signs(scale, static_cast<uint32_t>(row) >> k);
    if constexpr (kAdd) values = canonical(load_lanes<FloatLanes>(target + k) + values);
    store_lanes(target + k, values);
  }
}

template <bool kAdd>
void decode_one_bit(const std::byte* source, float* target, std::size_t count) {
  const std::byte* const signs = source + one_bit_scales_bytes(count);
  uint32_t scale = 0;
  std::size_t i = 0;
  for (; i + kRow <= count; i += kRow) {
    if (i % kOneBitBlock == 0) scale = read_scale(source + i / kOneBitBlock * kScaleBytes);
    decode_row<kAdd>(scale, signs + i / 8, target + i);
  }
  if (i == count) return;
  if (i % kOneBitBlock == 0) scale = read_scale(source + i / kOneBitBlock * kScaleBytes);
  std::byte padded_signs[kRowBytes] = {};
  float padded[kRow] = {};
  __builtin_memcpy(padded_signs, signs + i / 8, (count - i + 7) / 8);
  if constexpr (kAdd) __builtin_memcpy(padded, target + i, (count - i) * sizeof(float));
  decode_row<kAdd>(scale, padded_signs, padded);
  __builtin_memcpy(target + i, padded, (count - i) * sizeof(float));
}

inline constexpr CodecKernels kOneBitCodec = {encode_one_bit, decode_one_bit<false>,
                                              decode_one_bit<true>, encode_one_bit_feedback};

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
