// The n-way reduction and the division as the CUDA runtime launches them. A build without nvcc has
// none: reduce_code_stub.cpp takes the place of reduce_code.cu.
//
// Threading: any thread.
#pragma once

#include "base/dtype.h"

namespace fastgpu::device {

// reduce_all(), with ReduceArgs; nullptr if there is none.
const void* reduce_all_kernel(DType dtype, ReduceOp reduce_op);
// divide_all(), with DivideArgs; nullptr unless the dtype is an integer.
const void* divide_kernel(DType dtype);

}  // namespace fastgpu::device
