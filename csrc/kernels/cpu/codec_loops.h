// The codecs over arrays, the same source for every instruction set; compiled as loops.h is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/codec.h"
#include "kernels/cpu/block_lanes.h"
#include "kernels/cpu/short_loops.h"
#include "kernels/kernel.h"

namespace fastgpu {
inline namespace FASTGPU_ISA {

FASTGPU_INLINE FloatLanes canonical(FloatLanes values) {
  return values == values ? values : FloatLanes{} + float_of(kFloatInfinity | kFloatQuiet);
}

// The scales of all blocks come first, then the codes.
template <typename Format>
FASTGPU_INLINE std::size_t scales_bytes(std::size_t count) {
  return (count + Format::kBlock - 1) / Format::kBlock * kScaleBytes;
}

template <typename Format>
struct EncodedGroup {
  int8_t codes[kGroup<Format>];
  uint16_t scales[kLanes];  // bfloat16
  float steps[kLanes];      // the same as float32
};

template <typename Format>
FASTGPU_INLINE void encode_group(const float* values, EncodedGroup<Format>& group) {
  typedef uint16_t ScaleLanes __attribute__((vector_size(kLanes * sizeof(uint16_t))));
  const WordLanes scales = scales_of<Format>(extremes<Format>(values));
  store_lanes(group.scales, __builtin_convertvector(scales >> 16, ScaleLanes));
  store_lanes(group.steps, scales);
  float inverses[kLanes];
  store_lanes(inverses, 1.0F / ManyLanes::floats(scales));
  for (std::size_t i = 0; i < kGroup<Format>; i += 4 * kLanes) {
    FloatLanes scaled[4];
    for (std::size_t k = 0; k < 4; ++k) {
      const std::size_t at = i + k * kLanes;
      scaled[k] = load_lanes<FloatLanes>(values + at) * inverses[at / Format::kBlock];
    }
    store_codes<Format>(group.codes + i, scaled);
  }
  if (!any_lane(scales == kNanScale)) return;
  for (std::size_t b = 0; b < kLanes; ++b) {
    if (group.scales[b] == BFloat16::kNaN)
      __builtin_memset(group.codes + b * Format::kBlock, 0, Format::kBlock);
  }
}

// Byte i of a block of n int4 codes holds code i in its lower half and code i + n / 2, rounded up,
// in its upper half. A code that the block lacks is 0.
template <typename Format>
FASTGPU_INLINE void pack_block(const int8_t* codes, std::byte* target, std::size_t count) {
  if constexpr (std::is_same_v<Format, Int8Blocks>) {
    __builtin_memcpy(target, codes, count);
  } else {
    const std::size_t half = (count + 1) / 2;
    for (std::size_t i = 0; i < half; ++i) {
      const auto low = static_cast<uint8_t>(codes[i]);
      const auto high = static_cast<uint8_t>(codes[half + i]);
      target[i] = static_cast<std::byte>((low & 0xf) | (high << 4));
    }
  }
}

// Unpacks the codes of a block. Writes one more than there are if their number is odd.
template <typename Format>
FASTGPU_INLINE void unpack_block(const std::byte* source, int8_t* codes, std::size_t count) {
  if constexpr (std::is_same_v<Format, Int8Blocks>) {
    __builtin_memcpy(codes, source, count);
  } else {
    const std::size_t half = (count + 1) / 2;
    for (std::size_t i = 0; i < half; ++i) {
      const auto both = static_cast<uint8_t>(source[i]);
      codes[i] = static_cast<int8_t>(static_cast<int8_t>(both << 4) >> 4);
      codes[half + i] = static_cast<int8_t>(static_cast<int8_t>(both) >> 4);
    }
  }
}

template <typename Format>
FASTGPU_INLINE constexpr std::size_t packed_bytes(std::size_t count) {
  return std::is_same_v<Format, Int8Blocks> ? count : (count + 1) / 2;
}

// Writes the first `count` elements of a group.
template <typename Format>
FASTGPU_INLINE void store_group(const EncodedGroup<Format>& group, std::byte* scales,
                                std::byte* codes, std::size_t count) {
  constexpr std::size_t kBlock = Format::kBlock;
  const std::size_t whole = count / kBlock;
  for (std::size_t b = 0; b < whole; ++b)
    pack_block<Format>(group.codes + b * kBlock, codes + b * packed_bytes<Format>(kBlock), kBlock);
  if (count % kBlock != 0) {
    pack_block<Format>(group.codes + whole * kBlock, codes + whole * packed_bytes<Format>(kBlock),
                       count % kBlock);
  }
  __builtin_memcpy(scales, group.scales, scales_bytes<Format>(count));
}

template <typename Format>
void encode_blocks(const float* source, std::byte* target, std::size_t count) {
  std::byte* scales = target;
  std::byte* codes = target + scales_bytes<Format>(count);
  EncodedGroup<Format> group;
  std::size_t i = 0;
  for (; i + kGroup<Format> <= count; i += kGroup<Format>) {
    encode_group<Format>(source + i, group);
    store_group<Format>(group, scales + scales_bytes<Format>(i), codes + packed_bytes<Format>(i),
                        kGroup<Format>);
  }
  if (i == count) return;
  float padded[kGroup<Format>] = {};
  __builtin_memcpy(padded, source + i, (count - i) * sizeof(float));
  encode_group<Format>(padded, group);
  store_group<Format>(group, scales + scales_bytes<Format>(i), codes + packed_bytes<Format>(i),
                      count - i);
}

// Writes values - decoded codes to the residual of every finite block.
template <typename Format>
FASTGPU_INLINE void keep_residual(const EncodedGroup<Format>& group, const float* values,
                                  float* residual) {
  for (std::size_t b = 0; b < kLanes; ++b) {
    if (group.scales[b] == BFloat16::kNaN) continue;
    const FloatLanes negative = FloatLanes{} - group.steps[b];
    for (std::size_t k = 0; k < Format::kBlock; k += kLanes) {
      const std::size_t at = b * Format::kBlock + k;
      store_lanes(residual + at, multiply_add(load_codes(group.codes + at), negative,
                                              load_lanes<FloatLanes>(values + at)));
    }
  }
}

// Encodes the first `count` elements of a group.
template <typename Format>
FASTGPU_INLINE void encode_group_feedback(const float* source, float* residual,
                                          EncodedGroup<Format>& group) {
  float values[kGroup<Format>];
  for (std::size_t i = 0; i < kGroup<Format>; i += kLanes)
    store_lanes(values + i,
                load_lanes<FloatLanes>(source + i) + load_lanes<FloatLanes>(residual + i));
  encode_group<Format>(values, group);
  keep_residual<Format>(group, values, residual);
}

template <typename Format>
void encode_blocks_feedback(const float* source, float* residual, std::byte* target,
                            std::size_t count) {
  std::byte* scales = target;
  std::byte* codes = target + scales_bytes<Format>(count);
  EncodedGroup<Format> group;
  std::size_t i = 0;
  for (; i + kGroup<Format> <= count; i += kGroup<Format>) {
    encode_group_feedback<Format>(source + i, residual + i, group);
    store_group<Format>(group, scales + scales_bytes<Format>(i), codes + packed_bytes<Format>(i),
                        kGroup<Format>);
  }
  if (i == count) return;
  float padded[kGroup<Format>] = {};
  float padded_residual[kGroup<Format>] = {};
  __builtin_memcpy(padded, source + i, (count - i) * sizeof(float));
  __builtin_memcpy(padded_residual, residual + i, (count - i) * sizeof(float));
  encode_group_feedback<Format>(padded, padded_residual, group);
  store_group<Format>(group, scales + scales_bytes<Format>(i), codes + packed_bytes<Format>(i),
                      count - i);
  __builtin_memcpy(residual + i, padded_residual, (count - i) * sizeof(float));
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
  const std::byte* scales = source;
  const std::byte* codes = source + scales_bytes<Format>(count);
  int8_t unpacked[kBlock];
  std::size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    unpack_block<Format>(codes + packed_bytes<Format>(i), unpacked, kBlock);
    decode_block<Format, kAdd>(unpacked, scales + scales_bytes<Format>(i), target + i);
  }
  if (i == count) return;
  float padded[kBlock] = {};
  __builtin_memset(unpacked, 0, kBlock);
  if constexpr (kAdd) __builtin_memcpy(padded, target + i, (count - i) * sizeof(float));
  unpack_block<Format>(codes + packed_bytes<Format>(i), unpacked, count % kBlock);
  decode_block<Format, kAdd>(unpacked, scales + scales_bytes<Format>(i), padded);
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
inline constexpr CodecKernels kBlockCodec = {encode_blocks<Format>, decode_blocks<Format, false>,
                                             decode_blocks<Format, true>,
                                             encode_blocks_feedback<Format>};

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
  }
  return nullptr;
}

}  // namespace FASTGPU_ISA
}  // namespace fastgpu
