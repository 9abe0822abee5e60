#include "kernels/cuda/codec_code.h"
#include "kernels/cuda/find_codec.h"
#include "kernels/cuda/residual.h"

namespace fastgpu::device {

const void* encode_kernel(Codec codec, const EncodeOptions& options) {
  return reinterpret_cast<const void*>(find_encode(codec, options));
}

const void* decode_kernel(Codec codec) { return reinterpret_cast<const void*>(find_decode(codec)); }

const void* residual_kernel() { return reinterpret_cast<const void*>(add_residual); }

}  // namespace fastgpu::device
