// The instances of all_reduce_small(), for common reductions of elements of at most 4 bytes.
//
// Threading: pure functions.
#pragma once

#include "engine/device/lane_code.h"
#include "engine/device/small.h"
#include "kernels/cuda/find_reduction.h"

namespace fastgpu::device {

struct FindSmall {
  template <typename Element, typename Op>
  SmallKernel operator()() const {
    if constexpr (kIsCommon<Element, Op> && sizeof(typename Element::Storage) <= 4) {
      return all_reduce_small<Element, Op>;
    } else {
      return nullptr;
    }
  }
};

// nullptr if there is none.
inline SmallKernel find_small(DType dtype, ReduceOp reduce_op) {
  if (is_integer_average(dtype, reduce_op)) return nullptr;
  return find_reduction(dtype, reduce_op, FindSmall{});
}

}  // namespace fastgpu::device
