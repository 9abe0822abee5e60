// The codec topk over arrays: the elements of largest magnitude of each block, with their indices.
// docs/compression.md defines the format. Part of codec_loops.h; compiled as described there.
//
// The selection compares magnitudes as integers, in three passes over a block with k entries:
//
//   1. Take the maxima of kColumns columns: elements i, i + kColumns, ... At least k magnitudes are
//      no smaller than the k-th largest maximum, since k columns have one.
//   2. Collect these elements: about 80 if the block has 4096 independent numbers.
//   3. Find the k-th largest of them.
//
// Both k-th largest numbers come from a bisection that counts, which no choice of numbers slows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/codec.h"
#include "kernels/cpu/block_lanes.h"
#include "kernels/kernel.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

inline constexpr std::size_t kColumns = 256;
inline constexpr std::size_t kWordBits = 64;

// The elements that may be among the largest, in the order of their indices.
struct Candidates {
  std::size_t count = 0;
  uint16_t indices[kTopkBlock];
  uint32_t magnitudes[kTopkBlock];
};

FASTGPU_INLINE std::size_t rounded_up(std::size_t count, std::size_t unit) {
  return (count + unit - 1) / unit * unit;
}

FASTGPU_INLINE IntLanes magnitudes_at(const uint32_t* bits) {
  return __builtin_bit_cast(IntLanes, load_lanes<WordLanes>(bits) & kFloatMagnitude);
}

// Returns how many of `size` magnitudes, whole registers, are at least `bound`, which is above 0.
FASTGPU_INLINE std::size_t count_reaching(const uint32_t* magnitudes, std::size_t size,
                                          uint32_t bound) {
  IntLanes found{};
  for (std::size_t i = 0; i < size; i += kLanes)
    found -= load_lanes<IntLanes>(magnitudes + i) > static_cast<int32_t>(bound - 1);
  int32_t total = 0;
  for (std::size_t lane = 0; lane < kLanes; ++lane) total += found[lane];
  return static_cast<std::size_t>(total);
}

// Returns a bound that `least` to `most` of the magnitudes reach, or the `least`-th largest, which
// more may equal.
inline uint32_t bound_of_largest(const uint32_t* magnitudes, std::size_t size, std::size_t least,
                                 std::size_t most) {
  IntLanes maxima{};
  for (std::size_t i = 0; i < size; i += kLanes)
    maxima = larger(maxima, load_lanes<IntLanes>(magnitudes + i));
  uint32_t high = 0;
  for (std::size_t lane = 0; lane < kLanes; ++lane)
    high = larger(high, static_cast<uint32_t>(maxima[lane]));
  ++high;
  uint32_t low = 0;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    const std::size_t reached = count_reaching(magnitudes, size, middle);
    if (reached < least) {
      high = middle;
    } else {
      low = middle;
      if (reached <= most) break;
    }
  }
  return low;
}

// Finds the elements whose magnitude is at least `bound`. `bits` are padded with zeros to whole
// rows of columns.
FASTGPU_INLINE void collect(const uint32_t* bits, std::size_t count, uint32_t bound,
                            Candidates& found) {
  const IntLanes below = IntLanes{} + static_cast<int32_t>(bound - 1);
  for (std::size_t i = 0; i < count; i += kWordBits) {
    uint64_t reached = 0;
    for (std::size_t k = 0; k < kWordBits; k += kLanes)
      reached |= greater_lanes(magnitudes_at(bits + i + k), below) << k;
    for (; reached != 0; reached &= reached - 1) {
      const std::size_t index = i + static_cast<std::size_t>(__builtin_ctzll(reached));
      found.indices[found.count] = static_cast<uint16_t>(index);
      found.magnitudes[found.count++] = bits[index] & kFloatMagnitude;
    }
  }
  while (found.indices[found.count - 1] >= count) --found.count;  // padding, with a bound of 0
}

// Writes the indices of the `entries` elements of largest magnitude, in ascending order.
// Among equal magnitudes it takes the lowest indices. `bits` are padded as for collect().
inline void select_largest(const uint32_t* bits, std::size_t count, std::size_t entries,
                           uint16_t* indices) {
  uint32_t maxima[kColumns];
  for (std::size_t column = 0; column < kColumns; column += kLanes) {
    IntLanes largest{};
    for (std::size_t i = column; i < count; i += kColumns)
      largest = larger(largest, magnitudes_at(bits + i));
    store_lanes(maxima + column, largest);
  }
  Candidates found;
  collect(bits, count, bound_of_largest(maxima, kColumns, entries, entries + entries / 4), found);
  const std::size_t size = rounded_up(found.count, kLanes);
  for (std::size_t i = found.count; i < size; ++i) found.magnitudes[i] = 0;
  const uint32_t smallest = bound_of_largest(found.magnitudes, size, entries, entries);
  std::size_t equal = entries - count_reaching(found.magnitudes, size, smallest + 1);
  for (std::size_t i = 0, entry = 0; entry < entries; ++i) {
    const uint32_t magnitude = found.magnitudes[i];
    if (magnitude < smallest || (magnitude == smallest && equal == 0)) continue;
    if (magnitude == smallest) --equal;
    indices[entry++] = found.indices[i];
  }
}

// Copies the bits of source + residual, or of the source, with one NaN for all. Pads them for
// collect().
template <bool kFeedback>
FASTGPU_INLINE void take_block(const float* source, const float* residual, std::size_t count,
                               uint32_t* bits) {
  const auto take = [](FloatLanes values, FloatLanes lost) {
    return ManyLanes::bits(canonical(kFeedback ? values + lost : values));
  };
  FloatLanes lost{};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    if constexpr (kFeedback) lost = load_lanes<FloatLanes>(residual + i);
    store_lanes(bits + i, take(load_lanes<FloatLanes>(source + i), lost));
  }
  if (i < count) {
    const std::size_t size_bytes = (count - i) * sizeof(float);
    FloatLanes part{};
    lost = FloatLanes{};
    __builtin_memcpy(&part, source + i, size_bytes);
    if constexpr (kFeedback) __builtin_memcpy(&lost, residual + i, size_bytes);
    store_lanes(bits + i, take(part, lost));
    i += kLanes;
  }
  __builtin_memset(bits + i, 0, (rounded_up(count, kColumns) - i) * sizeof(uint32_t));
}

// An entry has the index in its lower 12 bits, then three bits of code, then the sign. A code c
// above 0 is the number 2^(exponent - kCodes + c), and 0 is 0; exponents are biased, as in float32.
inline constexpr uint32_t kCodes = 7;
inline constexpr uint32_t kCodeShift = 12;
inline constexpr uint32_t kEntrySign = 1U << 15;
inline constexpr uint32_t kLeastExponent = kCodes + 1;  // so that no number is subnormal
inline constexpr uint32_t kLargestExponent = 254;
inline constexpr uint32_t kNanExponent = 255;

// The exponent of the nearest power of two; of two, the larger.
FASTGPU_INLINE uint32_t nearest_exponent(uint32_t magnitude) {
  return (magnitude + (1U << 22)) >> 23;
}

FASTGPU_INLINE uint32_t exponent_of_block(const uint32_t* bits, const uint16_t* indices,
                                          std::size_t entries) {
  uint32_t largest = 0;
  for (std::size_t k = 0; k < entries; ++k)
    largest = larger(largest, bits[indices[k]] & kFloatMagnitude);
  if (largest >= kFloatInfinity) return kNanExponent;
  const uint32_t exponent = larger(nearest_exponent(largest), kLeastExponent);
  return exponent > kLargestExponent ? kLargestExponent : exponent;
}

FASTGPU_INLINE uint16_t entry_of(uint32_t exponent, uint32_t index, uint32_t bits) {
  if (exponent == kNanExponent) return static_cast<uint16_t>(index);
  const uint32_t rounded = nearest_exponent(bits & kFloatMagnitude);
  const uint32_t least = exponent - kCodes;
  const uint32_t above = rounded > least ? rounded - least : 0;
  const uint32_t code = above > kCodes ? kCodes : above;
  const uint32_t sign = (bits & kFloatSign) != 0 ? kEntrySign : 0;
  return static_cast<uint16_t>(index | code << kCodeShift | sign);
}

FASTGPU_INLINE float value_of(uint32_t exponent, uint32_t entry) {
  if (exponent == kNanExponent) return float_of(kFloatInfinity | kFloatQuiet);
  const uint32_t code = entry >> kCodeShift & kCodes;
  const uint32_t sign = (entry & kEntrySign) != 0 ? kFloatSign : 0;
  return code == 0 ? 0.0F : float_of((exponent - kCodes + code) << 23 | sign);
}

// Encodes one block; returns its exponent.
template <bool kFeedback>
FASTGPU_INLINE uint32_t encode_topk_block(const float* source, float* residual, std::byte* target,
                                          std::size_t count) {
  uint32_t bits[kTopkBlock];
  uint16_t indices[kTopkBlock / kTopkShare];
  const std::size_t entries = topk_entries(count);
  take_block<kFeedback>(source, residual, count, bits);
  select_largest(bits, count, entries, indices);
  const uint32_t exponent = exponent_of_block(bits, indices, entries);
  const bool keeps = kFeedback && exponent != kNanExponent;
  if (keeps) __builtin_memcpy(residual, bits, count * sizeof(float));
  for (std::size_t k = 0; k < entries; ++k) {
    const uint16_t entry = entry_of(exponent, indices[k], bits[indices[k]]);
    __builtin_memcpy(target + k * kTopkEntryBytes, &entry, kTopkEntryBytes);
    if (keeps) residual[indices[k]] -= value_of(exponent, entry);
  }
  return exponent;
}

template <bool kFeedback>
FASTGPU_INLINE void encode_topk_all(const float* source, float* residual, std::byte* target,
                                    std::size_t count) {
  const std::size_t blocks = (count + kTopkBlock - 1) / kTopkBlock;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::size_t first = b * kTopkBlock;
    const std::size_t size = count - first < kTopkBlock ? count - first : kTopkBlock;
    target[b] = static_cast<std::byte>(encode_topk_block<kFeedback>(
        source + first, kFeedback ? residual + first : nullptr,
        target + blocks + topk_entries(first) * kTopkEntryBytes, size));
  }
}

inline void encode_topk(const float* source, std::byte* target, std::size_t count) {
  encode_topk_all<false>(source, nullptr, target, count);
}

inline void encode_topk_feedback(const float* source, float* residual, std::byte* target,
                                 std::size_t count) {
  encode_topk_all<true>(source, residual, target, count);
}

// Ignores an index beyond the end, which no encoder writes.
template <bool kAdd>
void decode_topk(const std::byte* source, float* target, std::size_t count) {
  const std::byte* entries = source + (count + kTopkBlock - 1) / kTopkBlock;
  if constexpr (!kAdd) __builtin_memset(target, 0, count * sizeof(float));
  for (std::size_t k = 0; k < topk_entries(count); ++k, entries += kTopkEntryBytes) {
    const std::size_t block = k / (kTopkBlock / kTopkShare);
    uint16_t entry;
    __builtin_memcpy(&entry, entries, kTopkEntryBytes);
    const std::size_t i = block * kTopkBlock + entry % kTopkBlock;
    const float value = value_of(static_cast<uint32_t>(source[block]), entry);
    if (i >= count) continue;
    if constexpr (kAdd) {
      const float sum = target[i] + value;
      target[i] = sum == sum ? sum : float_of(kFloatInfinity | kFloatQuiet);
    } else {
      target[i] = value;
    }
  }
}

inline constexpr CodecKernels kTopkCodec = {encode_topk, decode_topk<false>, decode_topk<true>,
                                            encode_topk_feedback};

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
