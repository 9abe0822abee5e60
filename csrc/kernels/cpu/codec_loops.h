// The codecs over arrays, the same source for every instruction set; compiled as loops.h is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/codec.h"
#include "kernels/cpu/block_lanes.h"
#include "kernels/cpu/one_bit_loops.h"
#include "kernels/cpu/short_loops.h"
#include "kernels/cpu/stochastic_lanes.h"
#include "kernels/cpu/topk_loops.h"
#include "kernels/kernel.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

// The scales of all blocks come first, then the codes.
template <typename Format>
FASTGPU_INLINE std::size_t scales_bytes(std::size_t count) {
  return (count + Format::kBlock - 1) / Format::kBlock * kScaleBytes;
}

template <typename Format>
FASTGPU_INLINE constexpr std::size_t codes_bytes(std::size_t count) {
  return std::is_same_v<Format, Int8Blocks> ? count : (count + 1) / 2;
}

struct GroupScales {
  WordLanes scales;  // float32
  float inverses[kLanes];
};

FASTGPU_INLINE void store_scales(std::byte* target, const GroupScales& group, std::size_t size) {
  typedef uint16_t ShortLanes __attribute__((vector_size(kLanes * sizeof(uint16_t))));
  const auto upper = __builtin_convertvector(group.scales >> 16, ShortLanes);
  __builtin_memcpy(target, &upper, size);
}

struct Loaded {
  const float* values;
  FASTGPU_INLINE FloatLanes operator()(std::size_t i) const {
    return load_lanes<FloatLanes>(values + i);
  }
};

// Also writes the sums to `values`.
struct Added {
  const float* source;
  const float* residual;
  float* values;
  FASTGPU_INLINE FloatLanes operator()(std::size_t i) const {
    const FloatLanes sum =
        load_lanes<FloatLanes>(source + i) + load_lanes<FloatLanes>(residual + i);
    store_lanes(values + i, sum);
    return sum;
  }
};

template <typename Format, typename Rounding, typename Load>
FASTGPU_INLINE void find_scales(const Load& load, GroupScales& group) {
  group.scales = Rounding::template scales<Format>(extremes<Format>(load));
  store_lanes(group.inverses, 1.0F / ManyLanes::floats(group.scales));
}

// Computes the codes of the group from element `first` on, without packing them.
template <typename Format, typename Rounding>
FASTGPU_INLINE void find_codes(const float* values, const GroupScales& group,
                               const Rounding& rounding, std::size_t first, int8_t* codes) {
  constexpr std::size_t kStored = 4 * kLanes;  // elements of one store_codes()
  constexpr std::size_t kTurn = kStored > Format::kBlock ? kStored : Format::kBlock;
  for (std::size_t i = 0; i < kGroup<Format>; i += kTurn) {
    const float* inverses = group.inverses + i / Format::kBlock;
    for (std::size_t j = 0; j < kTurn; j += kStored) {
      FloatLanes scaled[4];
      for (std::size_t k = 0; k < 4; ++k) {
        const std::size_t at = j + k * kLanes;
        scaled[k] = load_lanes<FloatLanes>(values + i + at) * inverses[at / Format::kBlock];
      }
      rounding.template shift<Format>(scaled, first + i + j);
      store_codes<Format>(codes + i + j, scaled);
    }
  }
  const IntLanes no_number = group.scales == kNanScale;
  if (!any_lane(no_number)) return;
  for (std::size_t b = 0; b < kLanes; ++b) {
    if (no_number[b]) __builtin_memset(codes + b * Format::kBlock, 0, Format::kBlock);
  }
}

// Half a block of int4 codes.
typedef uint8_t HalfBlock __attribute__((vector_size(kInt4Block / 2)));

// Byte i of a block of n int4 codes has code i in its lower half and code i + n / 2, rounded up, in
// its upper half. A code that the block lacks is 0.
FASTGPU_INLINE void pack_block(const int8_t* codes, std::byte* target) {
  const auto low = load_lanes<HalfBlock>(codes);
  const auto high = load_lanes<HalfBlock>(codes + kInt4Block / 2);
  store_lanes(target, (low & 0xf) | (high << 4));
}

FASTGPU_INLINE void unpack_block(const std::byte* source, int8_t* codes) {
  const auto both = load_lanes<HalfBlock>(source);
  store_lanes(codes, ((both & 0xf) ^ 8) - 8);
  store_lanes(codes + kInt4Block / 2, ((both >> 4) ^ 8) - 8);
}

// The same for `count` codes, fewer than a block.
FASTGPU_INLINE void pack_part(const int8_t* codes, std::byte* target, std::size_t count) {
  int8_t padded[kInt4Block] = {};
  std::byte packed[kInt4Block / 2];
  const std::size_t half = (count + 1) / 2;
  __builtin_memcpy(padded, codes, half);
  __builtin_memcpy(padded + kInt4Block / 2, codes + half, count - half);
  pack_block(padded, packed);
  __builtin_memcpy(target, packed, half);
}

FASTGPU_INLINE void unpack_part(const std::byte* source, int8_t* codes, std::size_t count) {
  int8_t padded[kInt4Block];
  std::byte packed[kInt4Block / 2] = {};
  const std::size_t half = (count + 1) / 2;
  __builtin_memcpy(packed, source, half);
  unpack_block(packed, padded);
  __builtin_memcpy(codes, padded, half);
  __builtin_memcpy(codes + half, padded + kInt4Block / 2, count - half);
}

// Writes the first `count` of the codes to the target.
template <typename Format>
FASTGPU_INLINE void store_group(const int8_t* codes, std::byte* target, std::size_t count) {
  if constexpr (std::is_same_v<Format, Int8Blocks>) {
    __builtin_memcpy(target, codes, count);
  } else {
    std::size_t i = 0;
    for (; i + kInt4Block <= count; i += kInt4Block) pack_block(codes + i, target + i / 2);
    if (i < count) pack_part(codes + i, target + i / 2, count % kInt4Block);
  }
}

// The input of an encoding: source + residual with feedback, else the source.
template <typename Format, typename Rounding, bool kFeedback>
struct Values {
  const float* source;
  const float* residual;
  float sums[2][kFeedback ? kGroup<Format> : 1];  // of the group being encoded and the next

  // Finds the scales of the group that starts at element i.
  FASTGPU_INLINE void prepare(std::size_t i, GroupScales& group) {
    if constexpr (kFeedback) {
      find_scales<Format, Rounding>(Added{source + i, residual + i, sums[i / kGroup<Format> % 2]},
                                    group);
    } else {
      find_scales<Format, Rounding>(Loaded{source + i}, group);
    }
  }
  // The values of a group that is prepared.
  FASTGPU_INLINE const float* at(std::size_t i) const {
    return kFeedback ? sums[i / kGroup<Format> % 2] : source + i;
  }
};

// Writes what the encoding lost to the residual of every finite block.
template <typename Format>
FASTGPU_INLINE void keep_residual(const float* values, const GroupScales& group,
                                  const int8_t* codes, float* residual) {
  for (std::size_t b = 0; b < kLanes; ++b) {
    const uint32_t scale = group.scales[b];
    if (scale == kNanScale) continue;
    const FloatLanes negative = FloatLanes{} + float_of(scale ^ kFloatSign);
    for (std::size_t k = 0; k < Format::kBlock; k += kLanes) {
      const std::size_t at = b * Format::kBlock + k;
      store_lanes(residual + at, multiply_add(load_codes(codes + at), negative,
                                              load_lanes<FloatLanes>(values + at)));
    }
  }
}

// The arrays of an encoding.
struct Parts {
  const float* source;
  float* residual;
  std::byte* scales;
  std::byte* codes;
};

// Encodes the last elements, from `first` on: fewer than a group. Touches no memory around them.
template <typename Format, bool kFeedback, typename Rounding>
FASTGPU_INLINE void encode_part(const Parts& parts, const Rounding& rounding, std::size_t first,
                                std::size_t count) {
  const float* source = parts.source + first;
  float* residual = parts.residual + (kFeedback ? first : 0);
  float padded[kGroup<Format>] = {};
  float padded_residual[kFeedback ? kGroup<Format> : 1] = {};
  int8_t codes[kGroup<Format>];
  GroupScales group;
  __builtin_memcpy(padded, source, count * sizeof(float));
  if constexpr (kFeedback) __builtin_memcpy(padded_residual, residual, count * sizeof(float));
  Values<Format, Rounding, kFeedback> values{padded, padded_residual, {}};
  values.prepare(0, group);
  find_codes<Format>(values.at(0), group, rounding, first, codes);
  if constexpr (kFeedback) {
    keep_residual<Format>(values.at(0), group, codes, padded_residual);
    __builtin_memcpy(residual, padded_residual, count * sizeof(float));
  }
  store_group<Format>(codes, parts.codes + codes_bytes<Format>(first), count);
  store_scales(parts.scales + scales_bytes<Format>(first), group, scales_bytes<Format>(count));
}

// Finds the scales of the next group before the codes of this one. Otherwise the CPU would wait for
// the scales, which take longer to compute than it can look ahead.
template <typename Format, bool kFeedback, typename Rounding>
FASTGPU_INLINE void encode_all(const float* source, float* residual, std::byte* target,
                               std::size_t count, Rounding rounding) {
  constexpr std::size_t kAll = kGroup<Format>;
  constexpr bool kPacked = !std::is_same_v<Format, Int8Blocks>;
  std::byte* scales = target;
  std::byte* packed = target + scales_bytes<Format>(count);
  Values<Format, Rounding, kFeedback> values;
  values.source = source;
  values.residual = residual;
  GroupScales group;
  GroupScales next;
  int8_t unpacked[kAll];
  std::size_t i = 0;
  if (count >= kAll) values.prepare(0, next);
  for (; i + kAll <= count; i += kAll) {
    group = next;
    if (i + 2 * kAll <= count) values.prepare(i + kAll, next);
    std::byte* const group_codes = packed + codes_bytes<Format>(i);
    int8_t* const codes = kPacked ? unpacked : reinterpret_cast<int8_t*>(group_codes);
    find_codes<Format>(values.at(i), group, rounding, i, codes);
    if constexpr (kFeedback) keep_residual<Format>(values.at(i), group, codes, residual + i);
    if constexpr (kPacked) store_group<Format>(codes, group_codes, kAll);
    store_scales(scales + scales_bytes<Format>(i), group, scales_bytes<Format>(kAll));
  }
  if (i == count) return;
  encode_part<Format, kFeedback>(Parts{source, residual, scales, packed}, rounding, i,
                                 count % kAll);
}

template <typename Format>
void encode_blocks(const float* source, std::byte* target, std::size_t count) {
  encode_all<Format, false>(source, nullptr, target, count, NearestRounding{});
}

template <typename Format>
void encode_blocks_feedback(const float* source, float* residual, std::byte* target,
                            std::size_t count) {
  encode_all<Format, true>(source, residual, target, count, NearestRounding{});
}

template <typename Format>
void encode_blocks_stochastic(const float* source, float* residual, std::byte* target,
                              std::size_t count, uint64_t key) {
  const StochasticRounding rounding{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
  if (residual != nullptr) {
    encode_all<Format, true>(source, residual, target, count, rounding);
  } else {
    encode_all<Format, false>(source, nullptr, target, count, rounding);
  }
}

// A code of 0 decodes to +0, whatever the sign of the scale.
template <typename Format, bool kAdd>
FASTGPU_INLINE void decode_block(const int8_t* codes, const std::byte* scale, float* target) {
  uint16_t bits;
  __builtin_memcpy(&bits, scale, sizeof(bits));
  const FloatLanes step = FloatLanes{} + widen<BFloat16>(bits);
  for (std::size_t k = 0; k < Format::kBlock; k += kLanes) {
    const FloatLanes code = load_codes(codes + k);
    if constexpr (kAdd) {
      store_lanes(target + k,
                  canonical(multiply_add(code, step, load_lanes<FloatLanes>(target + k))));
    } else {
      store_lanes(target + k, multiply_add(code, step, FloatLanes{}));
    }
  }
}

template <typename Format, bool kAdd>
void decode_blocks(const std::byte* source, float* target, std::size_t count) {
  constexpr std::size_t kBlock = Format::kBlock;
  constexpr bool kPacked = !std::is_same_v<Format, Int8Blocks>;
  const std::byte* scales = source;
  const std::byte* packed = source + scales_bytes<Format>(count);
  int8_t codes[kBlock];
  std::size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    const std::byte* block = packed + codes_bytes<Format>(i);
    if constexpr (kPacked) unpack_block(block, codes);
    decode_block<Format, kAdd>(kPacked ? codes : reinterpret_cast<const int8_t*>(block),
                               scales + scales_bytes<Format>(i), target + i);
  }
  if (i == count) return;
  float padded[kBlock] = {};
  __builtin_memset(codes, 0, kBlock);
  if constexpr (kAdd) __builtin_memcpy(padded, target + i, (count - i) * sizeof(float));
  if constexpr (kPacked) {
    unpack_part(packed + codes_bytes<Format>(i), codes, count % kBlock);
  } else {
    __builtin_memcpy(codes, packed + i, count % kBlock);
  }
  decode_block<Format, kAdd>(codes, scales + scales_bytes<Format>(i), padded);
  __builtin_memcpy(target + i, padded, (count - i) * sizeof(float));
}

template <typename Format>
void decode_short_add(const std::byte* bytes, float* target, std::size_t count) {
  using Storage = typename Format::Storage;
  const auto* source = reinterpret_cast<const Storage*>(bytes);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store_lanes(target + i,
                canonical(load_lanes<FloatLanes>(target + i) + InOrder<Format>::load(source + i)));
  }
  if (i == count) return;
  Storage padded[kLanes] = {};
  FloatLanes values{};
  __builtin_memcpy(padded, source + i, (count - i) * sizeof(Storage));
  __builtin_memcpy(&values, target + i, (count - i) * sizeof(float));
  values = canonical(values + InOrder<Format>::load(padded));
  __builtin_memcpy(target + i, &values, (count - i) * sizeof(float));
}

// Returns the residual of the elements; where the decoded value is not finite, the old one.
template <typename Format>
FASTGPU_INLINE FloatLanes encode_short_lanes(FloatLanes source, FloatLanes residual,
                                             typename Format::Storage* target) {
  const FloatLanes values = source + residual;
  InOrder<Format>::store(target, values);
  const FloatLanes decoded = InOrder<Format>::load(target);
  const WordLanes magnitude = ManyLanes::bits(decoded) & kFloatMagnitude;
  return magnitude < kFloatInfinity ? values - decoded : residual;
}

template <typename Format>
void encode_short_feedback(const float* source, float* residual, std::byte* bytes,
                           std::size_t count) {
  using Storage = typename Format::Storage;
  auto* target = reinterpret_cast<Storage*>(bytes);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store_lanes(residual + i,
                encode_short_lanes<Format>(load_lanes<FloatLanes>(source + i),
                                           load_lanes<FloatLanes>(residual + i), target + i));
  }
  if (i == count) return;
  FloatLanes values{};
  FloatLanes old{};
  Storage padded[kLanes];
  __builtin_memcpy(&values, source + i, (count - i) * sizeof(float));
  __builtin_memcpy(&old, residual + i, (count - i) * sizeof(float));
  old = encode_short_lanes<Format>(values, old, padded);
  __builtin_memcpy(residual + i, &old, (count - i) * sizeof(float));
  __builtin_memcpy(target + i, padded, (count - i) * sizeof(Storage));
}

template <typename Format>
inline constexpr CodecKernels kShortCodec = {
    narrow_all<Format>, widen_all<Format>, decode_short_add<Format>, encode_short_feedback<Format>};

template <typename Format>
inline constexpr CodecKernels kBlockCodec = {
    encode_blocks<Format>, decode_blocks<Format, false>, decode_blocks<Format, true>,
    encode_blocks_feedback<Format>, encode_blocks_stochastic<Format>};

inline const CodecKernels* find_codec(Codec codec) {
  switch (codec) {
    case Codec::kNone:
      return nullptr;
    case Codec::kFloat16:
      return &kShortCodec<Float16>;
    case Codec::kBFloat16:
      return &kShortCodec<BFloat16>;
    case Codec::kInt8:
      return &kBlockCodec<Int8Blocks>;
    case Codec::kInt4:
      return &kBlockCodec<Int4Blocks>;
    case Codec::kTopk:
      return &kTopkCodec;
    case Codec::kOneBit:
      return &kOneBitCodec;
  }
  return nullptr;
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
