// Stochastic rounding of the block codecs: rounds a number up with the probability of its fraction,
// so that the mean over many roundings is the number. docs/compression.md defines it to the bit.
//
// The random bits of an element are a function of the key and of the element's index. An element
// takes 16 bits; elements i and i + 16 of 32 share a word. The function is the finalizer of
// MurmurHash3, with one half of the key before and one in the middle.
//
// Included by the file of each instruction set; see FASTGPU_ISA in short_float.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/block_lanes.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

// How the loops of the block codecs round. shift() changes the quotients of four registers, from
// element `first` on, before they are rounded to nearest.
struct NearestRounding {
  template <typename Format>
  FASTGPU_INLINE static WordLanes scales(WordLanes extreme) {
    return scales_of<Format>(extreme);
  }
  FASTGPU_INLINE void shift(FloatLanes (&)[4], std::size_t) const {}
};

struct StochasticRounding {
  uint32_t low;  // halves of the key
  uint32_t high;

  // extreme / -(kSmallest - 1): no code is limited, which would pull the mean towards zero. The
  // scale is at least 2^-109, so that a subnormal number is less than half a random unit.
  template <typename Format>
  FASTGPU_INLINE static WordLanes scales(WordLanes extreme) {
    constexpr uint32_t kLeast = (18 + Format::kSmallestExponent) << 23;
    constexpr auto kLargestCode = static_cast<float>((1 << Format::kSmallestExponent) - 1);
    const WordLanes magnitude = extreme & kFloatMagnitude;
    const WordLanes kept = magnitude < kLeast ? WordLanes{} + kLeast : magnitude;
    const WordLanes exact = ManyLanes::bits(ManyLanes::floats(kept) / kLargestCode);
    const WordLanes scale = ((exact + 0xffff) & 0xffff0000) | (~extreme & kFloatSign);
    return magnitude >= kFloatInfinity ? WordLanes{} + kNanScale : scale;
  }

  FASTGPU_INLINE void shift(FloatLanes (&scaled)[4], std::size_t first) const {
    constexpr std::size_t kHalf = 16;
    if constexpr (kLanes < kHalf / 2) {  // four registers are half a run
      const uint32_t bits = first % (2 * kHalf) == 0 ? 0 : 16;
      for (std::size_t k = 0; k < 4; ++k) {
        const WordLanes words = random(first / (2 * kHalf) * kHalf + k * kLanes);
        scaled[k] += unit((words >> bits) & 0xffff);
      }
    } else {
      for (std::size_t run = 0; run < 4 * kLanes; run += 2 * kHalf) {
        for (std::size_t i = 0; i < kHalf; i += kLanes) {
          const WordLanes words = random((first + run) / 2 + i);
          scaled[(run + i) / kLanes] += unit(words & 0xffff);
          scaled[(run + kHalf + i) / kLanes] += unit(words >> 16);
        }
      }
    }
  }

 private:
  // The words from number `first` on.
  FASTGPU_INLINE WordLanes random(std::size_t first) const {
    WordLanes word;
    for (std::size_t lane = 0; lane < kLanes; ++lane) word[lane] = static_cast<uint32_t>(lane);
    word = (word + static_cast<uint32_t>(first)) ^ low;
    word ^= word >> 16;
    word *= 0x85ebca6b;
    word ^= word >> 13;
    word ^= high;
    word *= 0xc2b2ae35;
    return word ^ (word >> 16);
  }
  // From -1/2 to 1/2, both excluded, in steps of 2^-16: a whole number stays as it is.
  FASTGPU_INLINE static FloatLanes unit(WordLanes bits) {
    const IntLanes odd = __builtin_bit_cast(IntLanes, bits + bits) - 0xffff;
    return __builtin_convertvector(odd, FloatLanes) * 0x1p-17F;
  }
};

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
