// The kernels of this folder as the CUDA runtime launches them. A build without nvcc has none:
// lane_code_stub.cpp takes the place of the .cu files.
//
// Threading: any thread.
#pragma once

#include <cstddef>

#include "base/dtype.h"
#include "kernels/cuda/reduce_args.h"

namespace fastgpu::device {

// nullptr where there is none.
const void* lanes_kernel(DType dtype, ReduceOp reduce_op);  // run_lanes(), with LaneArgs
const void* copy_lanes_kernel();  // the same, for collectives that do not reduce
const void* small_kernel(DType dtype, ReduceOp reduce_op);  // all_reduce_small(), with SmallArgs

// Averages of integers have no kernel here: lanes and the small all_reduce multiply, and do not
// divide. Such a call takes the kernel of the sum, and a division after it.
inline bool is_integer_average(DType dtype, ReduceOp reduce_op) {
  return reduce_op == ReduceOp::kAvg && dtype >= DType::kInt8 && dtype <= DType::kBool;
}

// A set of these kernels. Tests have another set, which runs on the CPU.
struct LaneKernels {
  const void* (*lanes)(DType, ReduceOp) = nullptr;
  const void* (*copy_lanes)() = nullptr;
  const void* (*small)(DType, ReduceOp) = nullptr;
  unsigned threads = kBlockThreads;  // of a block
  // Of a group, for tensors that its peers do not map; the same on every rank. Larger calls take
  // several launches.
  std::size_t staging_bytes = std::size_t{64} << 20;
};

inline LaneKernels built_kernels() { return {lanes_kernel, copy_lanes_kernel, small_kernel}; }

}  // namespace fastgpu::device
