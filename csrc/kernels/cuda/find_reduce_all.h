// The instances of reduce_all().
//
// Threading: pure functions.
#pragma once

#include "kernels/cuda/find_reduction.h"

namespace fastgpu::device {

struct FindReduceAll {
  template <typename Element, typename Op>
  ReduceAllKernel operator()() const {
    return reduce_all<Element, Op>;
  }
};

// A kernel for any grid, or nullptr. The kernel of AVG and PREMUL_SUM is the sum.
inline ReduceAllKernel find_reduce_all(DType dtype, ReduceOp reduce_op) {
  return find_reduction(dtype, reduce_op, FindReduceAll{});
}

}  // namespace fastgpu::device
