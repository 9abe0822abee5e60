// Reduction kernels: one loop for each dtype and operation, in the widest SIMD that the CPU has.
//
// float16, bfloat16 and fp8 are computed in fp32 and rounded once, to nearest even. An operation
// with a NaN gives NaN, min and max included. Every SIMD variant gives the same bits.
//
// Threading: pure functions.
#pragma once

#include <cstddef>
#include <string>

#include "base/dtype.h"
#include "kernels/kernel.h"

namespace fastgpu {

// Returns the kernel for target = target op source, or nullptr if the operation is not defined for
// the dtype. The kernel of AVG and PREMUL_SUM is the sum; scale() does the multiplication.
ReduceKernel find_reduce(DType dtype, ReduceOp reduce_op);
// Returns the kernel that stores the result in both target and source, in one pass. It exists for
// sums of floating-point numbers of 16 bits or more; otherwise nullptr.
ReduceBothKernel find_reduce_both(DType dtype, ReduceOp reduce_op);
// Says why find_reduce() returns nullptr; empty if it does not.
std::string why_not(DType dtype, ReduceOp reduce_op);

// data[i] *= factor: in fp64 for float64 and complex128, in fp32 for other floats. Integers are
// divided by 1 / factor and rounded towards zero, so `factor` must be 1 / n. No effect on bool.
void scale(std::byte* data, std::size_t count, DType dtype, double factor);

// The SIMD variant in use: "avx512fp16", "avx512", "avx2" or "base". FASTGPU_SIMD can only lower
// it.
const char* simd_level();

}  // namespace fastgpu
