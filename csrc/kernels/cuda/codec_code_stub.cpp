#include "kernels/cuda/codec_code.h"

namespace fastgpu::device {

const void* encode_kernel(Codec, const EncodeOptions&) { return nullptr; }

const void* decode_kernel(Codec) { return nullptr; }

const void* residual_kernel() { return nullptr; }

}  // namespace fastgpu::device
