// The arithmetic of reductions: one loop a dtype and operation, in the widest SIMD this CPU has.
// float16, bfloat16 and fp8 are summed in fp32 and rounded once, to nearest even; NaN stays NaN and
// the result of min and max with a NaN is NaN. Every variant gives the same bits.
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <string>

#include "base/dtype.h"

namespace fastgpu {

// The kernel for target = target op source; AVG and PREMUL_SUM sum (scale does their rest).
// nullptr where the operation has no meaning for the dtype; why_not says it in words.
ReduceKernel find_reduce(DType dtype, ReduceOp reduce_op);
// The kernel that leaves the result in both, in one pass over them; nullptr where there is none:
// there is for sums of floating-point numbers of 16 bits and more.
ReduceBothKernel find_reduce_both(DType dtype, ReduceOp reduce_op);
std::string why_not(DType dtype, ReduceOp reduce_op);

// data[i] *= factor, in fp32 for the short floats, in fp64 for float64; integers are divided by
// 1 / factor towards zero (so factor must be 1 / n). Undefined for bool.
void scale(std::byte* data, std::size_t count, DType dtype, double factor);

// "avx512fp16", "avx512", "avx2" or "base": the variant in use; FASTGPU_SIMD overrides it,
// downwards only.
const char* simd_level();

}  // namespace fastgpu
