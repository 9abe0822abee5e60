// The instances of the encoding and decoding kernels.
//
// Threading: pure functions.
#pragma once

#include "base/codec.h"
#include "kernels/cuda/block_decode.h"
#include "kernels/cuda/block_encode.h"

namespace fastgpu::device {

using EncodeKernel = void (*)(EncodeArgs);
using DecodeKernel = void (*)(DecodeArgs);

struct EncodeOptions {
  bool feedback = false;    // with EncodeArgs::residual
  bool stochastic = false;  // with EncodeArgs::key
};

template <typename Format, typename Rounding>
EncodeKernel find_block_encode(bool feedback) {
  return feedback ? encode_blocks<Format, Rounding, true> : encode_blocks<Format, Rounding, false>;
}

template <typename Format>
EncodeKernel find_block_encode(const EncodeOptions& options) {
  return options.stochastic ? find_block_encode<Format, RoundStochastically>(options.feedback)
                            : find_block_encode<Format, RoundToNearest>(options.feedback);
}

// Kernels for any grid of whole warps, or nullptr where there is none.
inline EncodeKernel find_encode(Codec codec, const EncodeOptions& options = {}) {
  if (codec == Codec::kInt8) return find_block_encode<Int8Blocks>(options);
  if (codec == Codec::kInt4) return find_block_encode<Int4Blocks>(options);
  return nullptr;
}

// Decodes, adds to an array, or adds up several; see DecodeArgs.
inline DecodeKernel find_decode(Codec codec) {
  if (codec == Codec::kInt8) return decode_blocks<Int8Blocks>;
  if (codec == Codec::kInt4) return decode_blocks<Int4Blocks>;
  return nullptr;
}

}  // namespace fastgpu::device
