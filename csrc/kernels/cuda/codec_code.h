// The codec kernels as the CUDA runtime launches them, in blocks of whole warps. A build without
// nvcc has none: codec_code_stub.cpp takes the place of codec_code.cu.
//
// Threading: any thread.
#pragma once

#include "base/codec.h"

namespace fastgpu::device {

struct EncodeOptions {
  bool feedback = false;    // with EncodeArgs::residual
  bool stochastic = false;  // with EncodeArgs::key; int8 and int4 only
};

// A kernel that takes EncodeArgs, and one that takes DecodeArgs (codec_args.h); nullptr if there is
// none.
const void* encode_kernel(Codec codec, const EncodeOptions& options);
const void* decode_kernel(Codec codec);
const void* residual_kernel();  // takes ResidualArgs

}  // namespace fastgpu::device
