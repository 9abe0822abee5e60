// The arithmetic of the block codecs int8 and int4, shared by CPU loops and GPU kernels: the scale
// of a block, and the random bits of stochastic rounding. docs/compression.md defines it to the
// bit. `Lanes` is one number or a register of numbers, as in short_float.h.
//
// The scale comes from integer operations and at most one division. The product of a code and its
// scale is exact, so that a fused multiply-add gives what a product and a sum give.
//
// Threading: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/codec.h"
#include "kernels/short_float.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

// Codes are from -2^kSmallestExponent to 2^kSmallestExponent - 1.
struct Int8Blocks {
  static constexpr std::size_t kBlock = kInt8Block;
  static constexpr uint32_t kSmallestExponent = 7;
};
struct Int4Blocks {
  static constexpr std::size_t kBlock = kInt4Block;
  static constexpr uint32_t kSmallestExponent = 3;
};

inline constexpr uint32_t kFloatSign = kFloatMagnitude + 1;
inline constexpr uint32_t kNanScale = BFloat16::kNaN << 16;
// No scale is smaller, so that a subnormal number is less than half a step: its code is 0, whether
// or not the thread flushes subnormals.
inline constexpr uint32_t kSmallestScaleExponent = 2;  // 2^-125
// Larger magnitudes would round to infinity.
inline constexpr uint32_t kLargestExtreme = 0x7f7f0000;

// Returns the scales of blocks with these extremes: extreme / -2^kSmallestExponent as a bfloat16,
// rounded away from zero, in the bits of a float32. A block that is not finite gets NaN.
template <typename Format, typename Lanes>
FASTGPU_HD typename Lanes::Words scales_of(typename Lanes::Words extreme) {
  using Words = typename Lanes::Words;
  constexpr uint32_t kDivide = Format::kSmallestExponent << 23;
  constexpr uint32_t kLeast = kDivide + (kSmallestScaleExponent << 23);
  const Words magnitude = extreme & kFloatMagnitude;
  const Words rounded = (magnitude + 0xffff) & 0xffff0000;
  const Words most = rounded > kLargestExtreme ? Words{} + kLargestExtreme : rounded;
  const Words kept = most < kLeast ? Words{} + kLeast : most;
  const Words scale = (kept - kDivide) | (~extreme & kFloatSign);
  return magnitude >= kFloatInfinity ? Words{} + kNanScale : scale;
}

// The same for stochastic rounding: extreme / -(2^kSmallestExponent - 1), so that no code is
// limited, which would pull the mean towards zero. The scale is at least 2^-109, so that a
// subnormal number is less than half a random unit, and no larger than that of nearest rounding, so
// that every code decodes to a finite number. Codes are limited in blocks above 2.96e38 only.
template <typename Format, typename Lanes>
FASTGPU_HD typename Lanes::Words stochastic_scales_of(typename Lanes::Words extreme) {
  using Words = typename Lanes::Words;
  constexpr uint32_t kLeast = (18 + Format::kSmallestExponent) << 23;
  constexpr uint32_t kMost = kLargestExtreme - (Format::kSmallestExponent << 23);
  constexpr auto kLargestCode = static_cast<float>((1 << Format::kSmallestExponent) - 1);
  const Words magnitude = extreme & kFloatMagnitude;
  const Words kept = magnitude < kLeast ? Words{} + kLeast : magnitude;
  const Words exact = Lanes::bits(Lanes::floats(kept) / kLargestCode);
  const Words rounded = (exact + 0xffff) & 0xffff0000;
  const Words scale = (rounded > kMost ? Words{} + kMost : rounded) | (~extreme & kFloatSign);
  return magnitude >= kFloatInfinity ? Words{} + kNanScale : scale;
}

// The random words of these numbers, under a key in two halves: the finalizer of MurmurHash3, with
// one half of the key before and one in the middle.
template <typename Words>
FASTGPU_HD Words random_words(Words numbers, uint32_t low, uint32_t high) {
  Words word = numbers ^ low;
  word ^= word >> 16;
  word *= 0x85ebca6b;
  word ^= word >> 13;
  word ^= high;
  word *= 0xc2b2ae35;
  return word ^ (word >> 16);
}

// 16 random bits as a number from -1/2 to 1/2, both excluded, in steps of 2^-16: added before
// rounding to nearest, it leaves a whole number as it is.
template <typename Lanes>
FASTGPU_HD typename Lanes::Floats random_unit(typename Lanes::Words bits) {
  return Lanes::to_float(bits + bits - 0xffff) * 0x1p-17F;
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
