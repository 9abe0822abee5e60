// The instances of run_lanes(). Each is large, so they are made for common reductions only. The
// host drives all other calls.
//
// Threading: pure functions.
#pragma once

#include "engine/device/lane.h"
#include "engine/device/lane_code.h"
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

// nullptr if there is none.
inline LaneKernel find_lanes(DType dtype, ReduceOp reduce_op) {
  if (is_integer_average(dtype, reduce_op)) return nullptr;
  return find_reduction(dtype, reduce_op, FindLanes{});
}

// For collectives that do not reduce, of any dtype.
inline LaneKernel find_copy_lanes() { return find_lanes(DType::kUInt8, ReduceOp::kBor); }

}  // namespace fastgpu::device
