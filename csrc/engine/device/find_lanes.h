// The instances of run_lanes(). Each is large, so they are made for common reductions only; all
// other calls take the engine that the host drives.
//
// Threading: pure functions.
#pragma once

#include "engine/device/lane.h"
#include "kernels/cuda/find_reduction.h"

namespace fastgpu::device {

struct FindLanes {
  template <typename Element, typename Op>
  LaneKernel operator()() const {
    if constexpr (kIsCommon<Element, Op>) {
      return run_lanes<Element, Op>;
    } else {
      return nullptr;
    }
  }
};

// nullptr if there is none. Averages of integers have none: lanes multiply, and do not divide. Such
// a call takes the sum, and a division after it.
inline LaneKernel find_lanes(DType dtype, ReduceOp reduce_op) {
  const bool is_integer = dtype >= DType::kInt8 && dtype <= DType::kBool;
  if (is_integer && reduce_op == ReduceOp::kAvg) return nullptr;
  return find_reduction(dtype, reduce_op, FindLanes{});
}

// For collectives that do not reduce, of any dtype.
inline LaneKernel find_copy_lanes() { return find_lanes(DType::kUInt8, ReduceOp::kBor); }

}  // namespace fastgpu::device
