// Stochastic rounding of the block codecs: rounds a number up with the probability of its fraction,
// so that the mean over many roundings is the number. docs/compression.md defines it to the bit.
//
// The random bits of an element are a function of the key and of the element's index. An element
// takes 16 bits; elements i and i + 16 of 32 share a word.
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
    return scales_of<Format, ManyLanes>(extreme);
  }
  template <typename Format>
  FASTGPU_INLINE void shift(FloatLanes (&)[4], std::size_t) const {}
};

struct StochasticRounding {
  uint32_t low;  // halves of the key
  uint32_t high;

  template <typename Format>
  FASTGPU_INLINE static WordLanes scales(WordLanes extreme) {
    return stochastic_scales_of<Format, ManyLanes>(extreme);
  }

  // Quotients of the largest numbers may be below the smallest code.
  template <typename Format>
  FASTGPU_INLINE void shift(FloatLanes (&scaled)[4], std::size_t first) const {
    constexpr float kSmallest = -(1 << Format::kSmallestExponent);
    add_units(scaled, first);
    for (FloatLanes& lanes : scaled) lanes = larger(lanes, FloatLanes{} + kSmallest);
  }

 private:
  FASTGPU_INLINE void add_units(FloatLanes (&scaled)[4], std::size_t first) const {
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

  // The words from number `first` on.
  FASTGPU_INLINE WordLanes random(std::size_t first) const {
    WordLanes numbers;
    for (std::size_t lane = 0; lane < kLanes; ++lane) numbers[lane] = static_cast<uint32_t>(lane);
    return random_words(numbers + static_cast<uint32_t>(first), low, high);
  }
  FASTGPU_INLINE static FloatLanes unit(WordLanes bits) { return random_unit<ManyLanes>(bits); }
};

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
