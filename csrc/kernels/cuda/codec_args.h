// The arguments of the kernels that encode and decode, of every codec.
//
// Threading: plain values.
#pragma once

#include "kernels/cuda/reduce.h"

namespace fastgpu::device {

// Arrays do not overlap. Floats and 16-bit codes are aligned to their size; codes of int8 and int4
// may lie at any address.
struct EncodeArgs {
  const float* source;
  float* residual;    // with feedback: added, then replaced by what the encoding lost
  std::byte* target;  // encoded_bytes()
  uint64_t count;
  uint64_t key;  // of stochastic rounding
};

// target = the sum of the arrays * factor, in float32 and in order: with one source and nothing
// else it is decode, with a plain array in front of it decode_add. `plain` may be the target; else
// arrays do not overlap.
struct DecodeArgs {
  Sources sources;     // encoded
  const float* plain;  // an array that is not encoded
  int plain_at;        // how many sources come before it; -1: there is none
  float* target;
  uint64_t count;
  double factor;  // 1, but for averages
};

// Arrays do not overlap, and are aligned to their elements.
struct ResidualArgs {
  float* values;
  float* residual;  // becomes 0, except where the sum is not finite
  uint64_t count;
};

// This many of several sources are loaded at once: with their sum they fit into registers.
inline constexpr int kDecodeAhead = 4;

// The number to store: the sum, times the factor of an average.
FASTGPU_DEVICE float finished(const DecodeArgs& args, float sum) {
  const bool scales = args.factor != 1;
  return Real<float>::store(scales ? sum * static_cast<float>(args.factor) : sum);
}

}  // namespace fastgpu::device
