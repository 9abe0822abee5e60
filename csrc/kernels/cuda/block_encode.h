// Encodes float32 by the block codecs int8 and int4, with the bits of the CPU's kernels
// (docs/compression.md). With error feedback it adds the residual before it finds the scale, and
// replaces it by what the encoding lost; a block that is not finite leaves its residual as it was.
//
// Traffic per element: 4 bytes read and 1.03 (int8) or 0.56 (int4) written; with a residual 8 more.
//
// Threading: device code; the threads that are given a Share work together, in whole warps.
#pragma once

#include "kernels/cuda/block_group.h"

namespace fastgpu::device {

// How quotients are rounded. shift() changes the quotient of an element before it is rounded to
// nearest. `element` counts from the beginning of its group, whose random words begin with
// `first_word`.
struct RoundToNearest {
  FASTGPU_DEVICE explicit RoundToNearest(uint64_t) {}
  template <typename Format>
  FASTGPU_DEVICE static uint32_t scale_of(uint32_t extreme) {
    return scales_of<Format, OneLane>(extreme);
  }
  FASTGPU_DEVICE float shift(float quotient, uint32_t, unsigned) const { return quotient; }
};

struct RoundStochastically {
  FASTGPU_DEVICE explicit RoundStochastically(uint64_t key)
      : low(static_cast<uint32_t>(key)), high(static_cast<uint32_t>(key >> 32)) {}
  template <typename Format>
  FASTGPU_DEVICE static uint32_t scale_of(uint32_t extreme) {
    return stochastic_scales_of<Format, OneLane>(extreme);
  }
  FASTGPU_DEVICE float shift(float quotient, uint32_t first_word, unsigned element) const {
    const uint32_t word = random_words(first_word + element / 32 * 16 + element % 16, low, high);
    return quotient + random_unit<OneLane>(element % 32 < 16 ? word & 0xffff : word >> 16);
  }

  uint32_t low;  // halves of the key
  uint32_t high;
};

// a * b + c. Where the product is exact, one rounding or two give the same bits.
FASTGPU_DEVICE float multiply_add(float a, float b, float c) {
#if defined(FASTGPU_GPU)
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

namespace block {

// Returns to a thread the extreme of its block: the value of largest magnitude, and of two such the
// negative one. Rotated left by one bit, a float has its magnitude on top and its sign below. So
// the largest unsigned integer is the extreme, and NaN is above all numbers.
template <typename Format>
FASTGPU_DEVICE uint32_t extreme_of(const typename Groups<Format>::Values& values, unsigned thread) {
  using G = Groups<Format>;
  typename G::Scales largest{};
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4 * G::kPieces; ++i) {
    const uint32_t bits = bits_of(values[i]);
    uint32_t& of_block = largest[i / (4 * G::kBlockPieces)];
    of_block = larger(of_block, bits << 1 | bits >> 31);
  }
  const uint32_t rotated = quad_maximum(largest, thread);
  return rotated >> 1 | rotated << 31;
}

// The codes of a piece, a byte each. With feedback the values become what the rounding loses.
template <typename Format, bool kFeedback, typename Rounding>
FASTGPU_DEVICE uint32_t codes_of_piece(float* values, float inverse, float scale,
                                       const Rounding& rounding, const GroupPart& part,
                                       unsigned piece) {
  using G = Groups<Format>;
  constexpr float kUnitIsLastBit = 12582912;  // 1.5 * 2^23: the addition rounds
  constexpr auto kLargest = static_cast<float>((1 << Format::kSmallestExponent) - 1);
  const auto first_word = static_cast<uint32_t>(part.group * (G::kElements / 2));
  const unsigned first = span_of<Format>(part, piece).first;
  uint32_t codes = 0;
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    const float quotient = rounding.shift(values[i] * inverse, first_word, first + i);
    const float most = quotient > kLargest ? kLargest : quotient;
    const float kept = most < -kLargest - 1 ? -kLargest - 1 : most;
    const float rounded = kept + kUnitIsLastBit;
    codes |= (bits_of(rounded) & (G::kPacked ? 0xf : 0xff)) << (8 * i);
    if constexpr (kFeedback) {
      values[i] = multiply_add(rounded - kUnitIsLastBit, negated(scale), values[i]);
    }
  }
  return inverse != inverse ? 0 : codes;  // the bits of NaN differ between machines
}

template <typename Format, bool kFeedback, typename Rounding>
FASTGPU_DEVICE Pack codes_of(typename Groups<Format>::Values& values, uint32_t scale,
                             const Rounding& rounding, const GroupPart& part,
                             typename Groups<Format>::Scales& scales) {
  using G = Groups<Format>;
  typename G::Scales inverses;
  quad_gather(bits_of(1.0F / float_of(scale)), part.thread, inverses);
  if constexpr (kFeedback) quad_gather(scale, part.thread, scales);
  Pack words{};
  FASTGPU_UNROLL
  for (unsigned piece = 0; piece < G::kPieces; ++piece) {
    const unsigned block = piece / G::kBlockPieces;
    const uint32_t codes = codes_of_piece<Format, kFeedback>(
        values + 4 * piece, float_of(inverses[block]), kFeedback ? float_of(scales[block]) : 0.0F,
        rounding, part, piece);
    if constexpr (G::kPacked) {
      words.word[block] |= codes << (4 * (piece % 2));
    } else {
      words.word[piece] = codes;
    }
  }
  return transpose(words, part.thread);
}

FASTGPU_DEVICE void store_scale(std::byte* target, uint32_t scale) {
  const auto upper = static_cast<uint16_t>(scale >> 16);
  if (reinterpret_cast<uintptr_t>(target) % kScaleBytes == 0) {
    store_element(target, upper);
  } else {
    store_element(target, static_cast<uint8_t>(upper));
    store_element(target + 1, static_cast<uint8_t>(upper >> 8));
  }
}

template <typename Format, bool kFeedback, typename Rounding>
FASTGPU_DEVICE void encode_group(const EncodeArgs& args, const Rounding& rounding,
                                 const GroupPart& part) {
  using G = Groups<Format>;
  typename G::Values values;
  load_values<Format>(args.source, part, values);
  if constexpr (kFeedback) {
    typename G::Values lost;
    load_values<Format>(args.residual, part, lost);
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4 * G::kPieces; ++i) values[i] += lost[i];
  }
  const uint32_t scale =
      Rounding::template scale_of<Format>(extreme_of<Format>(values, part.thread));
  typename G::Scales scales{};
  const Pack codes = codes_of<Format, kFeedback>(values, scale, rounding, part, scales);
  if constexpr (kFeedback) {
    unsigned finite = 0;
    FASTGPU_UNROLL
    for (unsigned block = 0; block < G::kBlocks; ++block) {
      finite |= (scales[block] != kNanScale ? 1u : 0u) << block;
    }
    store_values<Format>(args.residual, part, values, finite);
  }
  store_bytes(args.target + scales_bytes_of<Format>(args.count) + code_offset_of(part), codes,
              code_bytes_of<Format>(part));
  if ((G::kPacked || part.thread == 0) && has_block<Format>(part)) {
    store_scale(args.target + scale_offset_of<Format>(part), scale);
  }
}

}  // namespace block

template <typename Format, typename Rounding, bool kFeedback>
FASTGPU_DEVICE void encode_share(const EncodeArgs& args, Share share) {
  const Rounding rounding(args.key);
  for (uint64_t at = share.first; at < threads_for<Format>(args.count); at += share.stride) {
    block::encode_group<Format, kFeedback>(args, rounding, part_of<Format>(at, args.count));
  }
}

// Blocks of whole warps.
template <typename Format, typename Rounding, bool kFeedback>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    encode_blocks(FASTGPU_PARAMETER(EncodeArgs) args) {
  encode_share<Format, Rounding, kFeedback>(args, share_of_grid());
}

}  // namespace fastgpu::device
