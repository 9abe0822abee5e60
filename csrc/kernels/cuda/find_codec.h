// The instances of the encoding and decoding kernels.
//
// Threading: pure functions.
#pragma once

#include "kernels/cuda/block_decode.h"
#include "kernels/cuda/block_encode.h"
#include "kernels/cuda/codec_code.h"
#include "kernels/cuda/short_codec.h"

namespace fastgpu::device {

using EncodeKernel = void (*)(EncodeArgs);
using DecodeKernel = void (*)(DecodeArgs);

template <typename Format, typename Rounding>
EncodeKernel find_block_encode(bool feedback) {
  return feedback ? encode_blocks<Format, Rounding, true> : encode_blocks<Format, Rounding, false>;
}

template <typename Format>
EncodeKernel find_block_encode(const EncodeOptions& options) {
  return options.stochastic ? find_block_encode<Format, RoundStochastically>(options.feedback)
                            : find_block_encode<Format, RoundToNearest>(options.feedback);
}

template <typename Format>
EncodeKernel find_short_encode(const EncodeOptions& options) {
  if (options.stochastic) return nullptr;
  return options.feedback ? encode_short<Format, true> : encode_short<Format, false>;
}

// Kernels for any grid of whole warps, or nullptr where there is none.
inline EncodeKernel find_encode(Codec codec, const EncodeOptions& options = {}) {
  switch (codec) {
    case Codec::kFloat16:
      return find_short_encode<Float16>(options);
    case Codec::kBFloat16:
      return find_short_encode<BFloat16>(options);
    case Codec::kInt8:
      return find_block_encode<Int8Blocks>(options);
    case Codec::kInt4:
      return find_block_encode<Int4Blocks>(options);
    default:
      return nullptr;
  }
}

// Decodes, adds to an array, or adds up several; see DecodeArgs.
inline DecodeKernel find_decode(Codec codec) {
  switch (codec) {
    case Codec::kFloat16:
      return decode_short<Float16>;
    case Codec::kBFloat16:
      return decode_short<BFloat16>;
    case Codec::kInt8:
      return decode_blocks<Int8Blocks>;
    case Codec::kInt4:
      return decode_blocks<Int4Blocks>;
    default:
      return nullptr;
  }
}

}  // namespace fastgpu::device
