#include "codec/codec.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/variant.h"

namespace fastgpu {

const CodecKernels* find_codec(Codec codec) { return cpu::active_variant().find_codec(codec); }

void add_residual(float* values, float* residual, std::size_t count) {
  constexpr std::size_t kBlock = 1024;
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, count);
    bool zero = true;
    for (std::size_t i = begin; i < end; ++i) zero &= residual[i] == 0;
    for (std::size_t i = begin; i < end && !zero; ++i) {
      const float sum = values[i] + residual[i];
      if (!std::isfinite(sum)) continue;
      values[i] = sum;
      residual[i] = 0;
    }
  }
}

}  // namespace fastgpu
