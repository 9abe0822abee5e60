// Kernels that run all ranks of a group in one cooperative launch (launch_ranks()).
//
// Threading: any thread.
#pragma once

#include "base/dtype.h"

namespace fastgpu::test {

// run_ranks(), with LaneArgs, of the reductions that cases draw.
const void* lane_ranks_kernel(DType dtype, ReduceOp reduce_op);
// The same, for collectives that do not reduce.
const void* copy_ranks_kernel();
// all_reduce_small_ranks(), with SmallArgs, of sums of float32 and bfloat16.
const void* small_ranks_kernel(DType dtype);

}  // namespace fastgpu::test
