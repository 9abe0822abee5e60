// The codecs fp16 and bf16: encode, with error feedback, and the sum of encoded arrays, with the
// bits of the CPU's kernels (docs/compression.md).
//
// Two threads take 16 elements: each loads 4 floats twice, side by side with the other, and then
// exchanges half of its codes, so that each has 16 bytes of them.
//
// Threading: device code; the threads that are given a Share work together, in whole warps.
#pragma once

#include "kernels/cuda/codec_args.h"
#include "kernels/cuda/quad.h"

namespace fastgpu::device {

namespace short_codec {

inline constexpr uint64_t kGroup = 16;  // elements of two threads

using Values = float[8];  // of one thread

template <typename Format>
FASTGPU_DEVICE uint32_t narrow_two(float lower, float upper) {
#if defined(FASTGPU_GPU)
  return narrow_pair<Format>(lower, upper);
#else
  return narrow<Format>(lower) | static_cast<uint32_t>(narrow<Format>(upper)) << 16;
#endif
}

template <typename Format>
FASTGPU_DEVICE float widen_one(uint32_t pair, bool upper) {
#if defined(FASTGPU_GPU)
  return widen_half<Format>(pair, upper);
#else
  return widen<Format>(static_cast<uint16_t>(upper ? pair >> 16 : pair));
#endif
}

// What stays of a residual: the loss, if the decoded value is finite.
FASTGPU_DEVICE float residual_of(float value, float decoded, float residual) {
  return (bits_of(decoded) & kFloatMagnitude) < kFloatInfinity ? value - decoded : residual;
}

// From 4 codes of each half of a group to 8 of one half, and back: it is its own inverse.
FASTGPU_DEVICE Pack exchange_halves(Pack codes, uint64_t number) {
  exchange(codes.word[0], codes.word[2], number % 2 != 0, 1);
  exchange(codes.word[1], codes.word[3], number % 2 != 0, 1);
  return codes;
}

// The first element that thread `number` has in a half of its group.
FASTGPU_DEVICE uint64_t first_of(uint64_t number, unsigned half) {
  return number / 2 * kGroup + half * (kGroup / 2) + number % 2 * 4;
}

FASTGPU_DEVICE void load_floats(const float* array, uint64_t number, Values& values) {
  FASTGPU_UNROLL
  for (unsigned half = 0; half < 2; ++half) {
    const Pack pack = load_pack(reinterpret_cast<const std::byte*>(array + first_of(number, half)));
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) values[4 * half + i] = float_of(pack.word[i]);
  }
}

FASTGPU_DEVICE void store_floats(float* array, uint64_t number, const Values& values) {
  FASTGPU_UNROLL
  for (unsigned half = 0; half < 2; ++half) {
    Pack pack;
    FASTGPU_UNROLL
    for (unsigned i = 0; i < 4; ++i) pack.word[i] = bits_of(values[4 * half + i]);
    store_pack(reinterpret_cast<std::byte*>(array + first_of(number, half)), pack);
  }
}

template <typename Format, bool kFeedback>
FASTGPU_DEVICE void encode_group(const EncodeArgs& args, uint64_t number) {
  Values values;
  Values residual;
  load_floats(args.source, number, values);
  if constexpr (kFeedback) load_floats(args.residual, number, residual);
  Pack codes;
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    if constexpr (kFeedback) {
      values[2 * i] += residual[2 * i];
      values[2 * i + 1] += residual[2 * i + 1];
    }
    codes.word[i] = narrow_two<Format>(values[2 * i], values[2 * i + 1]);
    if constexpr (kFeedback) {
      for (unsigned each = 2 * i; each < 2 * i + 2; ++each) {
        residual[each] = residual_of(values[each], widen_one<Format>(codes.word[i], each % 2 != 0),
                                     residual[each]);
      }
    }
  }
  if constexpr (kFeedback) store_floats(args.residual, number, residual);
  store_pack(args.target + number * kPackBytes, exchange_halves(codes, number));
}

template <typename Format, bool kFeedback>
FASTGPU_DEVICE void encode_element(const EncodeArgs& args, uint64_t element) {
  float value = load_element<float>(reinterpret_cast<const std::byte*>(args.source + element));
  float old = 0;
  auto* const residual = reinterpret_cast<std::byte*>(args.residual + (kFeedback ? element : 0));
  if constexpr (kFeedback) {
    old = load_element<float>(residual);
    value += old;
  }
  const uint32_t code = narrow_two<Format>(value, 0.0F);
  if constexpr (kFeedback) {
    store_element(residual, residual_of(value, widen_one<Format>(code, false), old));
  }
  store_element(args.target + element * sizeof(uint16_t), static_cast<uint16_t>(code));
}

// `starts`: there is no sum yet.
template <typename Format>
FASTGPU_DEVICE void add_decoded(const Pack& codes, bool starts, Values& sum) {
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 8; ++i) {
    const float value = widen_one<Format>(codes.word[i / 2], i % 2 != 0);
    sum[i] = starts ? value : sum[i] + value;
  }
}

FASTGPU_DEVICE void add_plain(const DecodeArgs& args, uint64_t number, Values& sum) {
  Values values;
  load_floats(args.plain, number, values);
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 8; ++i) {
    sum[i] = args.plain_at == 0 ? values[i] : sum[i] + values[i];
  }
}

template <typename Format>
FASTGPU_DEVICE void decode_group(const DecodeArgs& args, uint64_t number) {
  Values sum{};
  FASTGPU_NO_UNROLL
  for (int first = 0; first < args.sources.count; first += kDecodeAhead) {
    Pack codes[kDecodeAhead];
    FASTGPU_UNROLL
    for (int i = 0; i < kDecodeAhead; ++i) {
      if (first + i < args.sources.count) {
        codes[i] = load_pack(args.sources.at[first + i] + number * kPackBytes);
      }
    }
    FASTGPU_UNROLL
    for (int i = 0; i < kDecodeAhead; ++i) {
      if (first + i >= args.sources.count) break;
      if (first + i == args.plain_at) add_plain(args, number, sum);
      const bool starts = first + i == 0 && args.plain_at != 0;
      add_decoded<Format>(exchange_halves(codes[i], number), starts, sum);
    }
  }
  if (args.sources.count == args.plain_at) add_plain(args, number, sum);
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 8; ++i) sum[i] = finished(args, sum[i]);
  store_floats(args.target, number, sum);
}

template <typename Format>
FASTGPU_DEVICE void decode_element(const DecodeArgs& args, uint64_t element) {
  float sum = 0;
  FASTGPU_NO_UNROLL
  for (int i = 0; i <= args.sources.count; ++i) {
    if (i == args.plain_at) {
      const auto value =
          load_element<float>(reinterpret_cast<const std::byte*>(args.plain + element));
      sum = i == 0 ? value : sum + value;
    }
    if (i == args.sources.count) break;
    const uint32_t code = load_element<uint16_t>(args.sources.at[i] + element * sizeof(uint16_t));
    const float value = widen_one<Format>(code, false);
    sum = i == 0 && args.plain_at != 0 ? value : sum + value;
  }
  store_element(reinterpret_cast<std::byte*>(args.target + element), finished(args, sum));
}

FASTGPU_DEVICE bool are_aligned(const DecodeArgs& args) {
  bool aligned = is_aligned(args.target) && (args.plain_at < 0 || is_aligned(args.plain));
  FASTGPU_NO_UNROLL
  for (int i = 0; i < args.sources.count; ++i) {
    aligned = aligned && is_aligned(args.sources.at[i]);
  }
  return aligned;
}

// How many threads have a whole group for each two, in whole warps.
FASTGPU_DEVICE uint64_t whole_threads(uint64_t count) {
  return count / kGroup * 2 / simt::kWarpSize * simt::kWarpSize;
}

}  // namespace short_codec

template <typename Format, bool kFeedback>
FASTGPU_DEVICE void encode_short_share(const EncodeArgs& args, Share share) {
  const bool aligned = is_aligned(args.source) && is_aligned(args.target) &&
                       (!kFeedback || is_aligned(args.residual));
  const uint64_t whole = aligned ? short_codec::whole_threads(args.count) : 0;
  for (uint64_t at = share.first; at < whole; at += share.stride) {
    short_codec::encode_group<Format, kFeedback>(args, at);
  }
  for (uint64_t i = whole * 8 + share.first; i < args.count; i += share.stride) {
    short_codec::encode_element<Format, kFeedback>(args, i);
  }
}

template <typename Format>
FASTGPU_DEVICE void decode_short_share(const DecodeArgs& args, Share share) {
  const uint64_t whole =
      short_codec::are_aligned(args) ? short_codec::whole_threads(args.count) : 0;
  for (uint64_t at = share.first; at < whole; at += share.stride) {
    short_codec::decode_group<Format>(args, at);
  }
  for (uint64_t i = whole * 8 + share.first; i < args.count; i += share.stride) {
    short_codec::decode_element<Format>(args, i);
  }
}

// Blocks of whole warps.
template <typename Format, bool kFeedback>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    encode_short(FASTGPU_PARAMETER(EncodeArgs) args) {
  encode_short_share<Format, kFeedback>(args, share_of_grid());
}

template <typename Format>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    decode_short(FASTGPU_PARAMETER(DecodeArgs) args) {
  decode_short_share<Format>(args, share_of_grid());
}

}  // namespace fastgpu::device
