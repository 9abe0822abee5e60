// The kernels compiled for each instruction set, and the choice among them at run time.
//
// Threading: constants; active_variant() decides once.
#pragma once

#include <cstddef>
#include <vector>

#include "base/codec.h"
#include "base/dtype.h"
#include "kernels/kernel.h"

namespace fastgpu::cpu {

struct Variant {
  const char* name;
  ReduceKernel (*find_reduce)(DType dtype, ReduceOp reduce_op);
  ReduceBothKernel (*find_reduce_both)(DType dtype, ReduceOp reduce_op);
  void (*scale)(std::byte* data, std::size_t count, DType dtype, double factor);
  void (*widen)(const std::byte* source, DType dtype, float* target, std::size_t count);
  void (*narrow)(const float* source, std::byte* target, DType dtype, std::size_t count);
  const CodecKernels* (*find_codec)(Codec codec);  // nullptr for Codec::kNone
};

extern const Variant kBaseVariant;
#if defined(__x86_64__)
extern const Variant kAvx2Variant;
extern const Variant kAvx512Variant;
extern const Variant* const kAvx512Fp16Variant;  // nullptr: the compiler lacks it
#endif

// The variants that the CPU and its operating system can run, the narrowest first.
std::vector<const Variant*> usable_variants();

// The usable variant named by `wanted`, or the widest usable one if that is narrower, or if
// `wanted` is nullptr or "". Throws InvalidArgumentError if `wanted` is not one of avx512fp16,
// avx512, avx2 and base.
const Variant& choose_variant(const char* wanted);

// choose_variant() for the value of FASTGPU_SIMD.
const Variant& active_variant();

}  // namespace fastgpu::cpu
