// The block codecs int8 and int4 on SIMD registers: the extreme of a block, and float32 to code and
// back. All variants compute the same bits.
//
// Included by the file of each instruction set; see FASTGPU_ISA in short_float.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/block_codec.h"
#include "kernels/cpu/lanes.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

// Loops encode as many blocks at once as a register has lanes, one scale a lane.
template <typename Format>
inline constexpr std::size_t kGroup = kLanes * Format::kBlock;  // elements

template <typename Lanes, typename Element>
FASTGPU_INLINE Lanes load_lanes(const Element* from) {
  Lanes lanes;
  __builtin_memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}

template <typename Lanes, typename Element>
FASTGPU_INLINE void store_lanes(Element* to, Lanes lanes) {
  __builtin_memcpy(to, &lanes, sizeof(lanes));
}

template <typename Lanes>
FASTGPU_INLINE Lanes larger(Lanes a, Lanes b) {
  return a > b ? a : b;
}

FASTGPU_INLINE FloatLanes canonical(FloatLanes values) {
  return values == values ? values : FloatLanes{} + float_of(kFloatInfinity | kFloatQuiet);
}

FASTGPU_INLINE bool any_lane(IntLanes mask) {
  constexpr std::size_t kWords = sizeof(mask) / sizeof(uint64_t);
  uint64_t words[kWords];
  __builtin_memcpy(words, &mask, sizeof(mask));
  uint64_t any = 0;
  for (std::size_t i = 0; i < kWords; ++i) any |= words[i];
  return any != 0;
}

// Splits the lanes into runs of kRun. Returns every second run of `a`, from run kFirst on, each
// followed by the same run of `b`.
template <std::size_t kRun, std::size_t kFirst, typename Lanes, std::size_t... kLane>
FASTGPU_INLINE Lanes merge_runs(Lanes a, Lanes b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(
      a, b, (kLane % (2 * kRun) < kRun ? kLane : kLanes + kLane - kRun) + kFirst * kRun...);
}

// Returns in lane i the largest number of rows[i]. Overwrites `rows`.
template <std::size_t kRows, typename Lanes>
FASTGPU_INLINE Lanes row_maxima(Lanes* rows) {
  if constexpr (kRows == 1) {
    return rows[0];
  } else {
    constexpr std::size_t kHalf = kRows / 2;
    constexpr auto kAll = std::make_index_sequence<kLanes>{};
    for (std::size_t i = 0; i < kHalf; ++i) {
      rows[i] = larger(merge_runs<kHalf, 0>(rows[i], rows[i + kHalf], kAll),
                       merge_runs<kHalf, 1>(rows[i], rows[i + kHalf], kAll));
    }
    return row_maxima<kHalf>(rows);
  }
}

// Returns in lane i the bits of block i's value of largest magnitude; the negative one of two.
//
// As signed integers, positive floats are above negative ones, and larger magnitudes above smaller
// ones of the same sign. As unsigned integers, negative floats are above positive ones. So the two
// maxima are the extremes of either sign, or both are that of the only sign.
//
// `load(i)` returns the register of values that starts at element i of the group. It is called once
// for each register.
template <typename Format, typename Load>
FASTGPU_INLINE WordLanes extremes(const Load& load) {
  IntLanes highest[kLanes];
  WordLanes lowest[kLanes];
  for (std::size_t b = 0; b < kLanes; ++b) {
    const std::size_t block = b * Format::kBlock;
    const WordLanes first = ManyLanes::bits(load(block));
    highest[b] = __builtin_bit_cast(IntLanes, first);
    lowest[b] = first;
    for (std::size_t i = kLanes; i < Format::kBlock; i += kLanes) {
      const WordLanes bits = ManyLanes::bits(load(block + i));
      highest[b] = larger(highest[b], __builtin_bit_cast(IntLanes, bits));
      lowest[b] = larger(lowest[b], bits);
    }
  }
  const auto positive = __builtin_bit_cast(WordLanes, row_maxima<kLanes>(highest));
  const WordLanes negative = row_maxima<kLanes>(lowest);
  return (positive & kFloatMagnitude) > (negative & kFloatMagnitude) ? positive : negative;
}

#if !defined(__AVX2__)

typedef int8_t CodeLanes __attribute__((vector_size(kLanes)));

// Returns the integers nearest to small numbers, ties to even.
FASTGPU_INLINE IntLanes nearest(FloatLanes values) {
  constexpr float kUnitIsLastBit = 12582912;  // 1.5 * 2^23: the addition rounds
  return __builtin_bit_cast(IntLanes, values + kUnitIsLastBit) -
         static_cast<int32_t>(bits_of(kUnitIsLastBit));
}

// Stores the codes of four registers.
template <typename Format>
FASTGPU_INLINE void store_codes(int8_t* codes, const FloatLanes (&scaled)[4]) {
  constexpr int32_t kSmallest = 1 << Format::kSmallestExponent;
  for (std::size_t k = 0; k < 4; ++k) {
    const IntLanes integers = nearest(scaled[k]);
    const IntLanes most = integers > kSmallest - 1 ? IntLanes{} + (kSmallest - 1) : integers;
    const IntLanes kept = most < -kSmallest ? IntLanes{} - kSmallest : most;
    store_lanes(codes + k * kLanes, __builtin_convertvector(kept, CodeLanes));
  }
}

FASTGPU_INLINE FloatLanes load_codes(const int8_t* codes) {
  return __builtin_convertvector(__builtin_convertvector(load_lanes<CodeLanes>(codes), IntLanes),
                                 FloatLanes);
}

// Returns a * b + c for products that are exact.
FASTGPU_INLINE FloatLanes multiply_add(FloatLanes a, FloatLanes b, FloatLanes c) {
  return a * b + c;
}

// Bit i is whether a[i] > b[i].
FASTGPU_INLINE uint64_t greater_lanes(IntLanes a, IntLanes b) {
  const IntLanes greater = a > b;
  uint64_t bits = 0;
  if (!any_lane(greater)) return bits;
  for (std::size_t lane = 0; lane < kLanes; ++lane)
    bits |= static_cast<uint64_t>(greater[lane] & 1) << lane;
  return bits;
}

#endif

}  // namespace FASTGPU_ISA
}  // namespace fastgpu

#if defined(__AVX2__)
#include "kernels/cpu/block_lanes_x86.h"
#endif
