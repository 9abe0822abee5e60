#include "pretended_kernels.h"

#include <cstddef>

#include "drawn_reductions.h"
#include "engine/device/lane.h"
#include "engine/device/small.h"
#include "kernels/cuda/find_reduction.h"
#include "pretended_runtime.h"

namespace fastgpu::device {
namespace {

template <typename Element, typename Op>
void run_lanes_with(const std::byte* arguments) {
  run_lanes<Element, Op>(*reinterpret_cast<const LaneArgs*>(arguments));
}

template <typename Element, typename Op>
void all_reduce_small_with(const std::byte* arguments) {
  all_reduce_small<Element, Op>(*reinterpret_cast<const SmallArgs*>(arguments));
}

struct FindPretendedLanes {
  template <typename Element, typename Op>
  test::PretendedKernel operator()() const {
    if constexpr (test::kIsDrawn<Element, Op>) {
      return run_lanes_with<Element, Op>;
    } else {
      return nullptr;
    }
  }
};

struct FindPretendedSmall {
  template <typename Element, typename Op>
  test::PretendedKernel operator()() const {
    if constexpr (test::kIsDrawn<Element, Op> && sizeof(typename Element::Storage) <= 4) {
      return all_reduce_small_with<Element, Op>;
    } else {
      return nullptr;
    }
  }
};

// As find_lanes() and find_small() do it.
template <typename Find>
const void* find(DType dtype, ReduceOp reduce_op, Find find) {
  if (is_integer_average(dtype, reduce_op)) return nullptr;
  return reinterpret_cast<const void*>(find_reduction(dtype, reduce_op, find));
}

const void* pretended_lanes(DType dtype, ReduceOp reduce_op) {
  return find(dtype, reduce_op, FindPretendedLanes{});
}
const void* pretended_copy_lanes() { return pretended_lanes(DType::kUInt8, ReduceOp::kBor); }
const void* pretended_small(DType dtype, ReduceOp reduce_op) {
  return find(dtype, reduce_op, FindPretendedSmall{});
}

}  // namespace

LaneKernels pretended_kernels() {
  return {pretended_lanes, pretended_copy_lanes, pretended_small, 32};
}

}  // namespace fastgpu::device
