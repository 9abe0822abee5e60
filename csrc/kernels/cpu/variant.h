// The kernels compiled for one instruction set, and the choice among them at run time.
// Thread safety: constants; in_use() decides once.
#pragma once

#include <cstddef>
#include <vector>

#include "base/dtype.h"

namespace fastgpu::cpu {

struct Variant {
  const char* name;
  ReduceKernel (*find_reduce)(DType dtype, ReduceOp reduce_op);
  ReduceBothKernel (*find_reduce_both)(DType dtype, ReduceOp reduce_op);
  void (*scale)(std::byte* data, std::size_t count, DType dtype, double factor);
  void (*widen)(const std::byte* source, DType dtype, float* target, std::size_t count);
  void (*narrow)(const float* source, std::byte* target, DType dtype, std::size_t count);
};

extern const Variant kBaseVariant;
#if defined(__x86_64__)
extern const Variant kAvx2Variant;
extern const Variant kAvx512Variant;
extern const Variant* const kAvx512Fp16Variant;  // nullptr: the compiler does not know it
#endif

// What this CPU and its operating system can run, the narrowest first.
std::vector<const Variant*> usable_variants();

// The widest usable variant, or a narrower one that `wanted` names (nullptr or "": no wish). Throws
// InvalidArgumentError when it is none of avx512fp16, avx512, avx2 and base.
const Variant& choose(const char* wanted);

// choose() with what FASTGPU_SIMD says.
const Variant& in_use();

}  // namespace fastgpu::cpu
