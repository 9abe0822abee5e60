#include "device/drawn_reductions.h"
#include "engine/device/lane.h"
#include "engine/device/small.h"
#include "kernels/cuda/find_reduction.h"
#include "ranks.h"

namespace fastgpu::test {
namespace {

struct FindRanks {
  template <typename Element, typename Op>
  const void* operator()() const {
    if constexpr (kIsDrawn<Element, Op>) {
      return reinterpret_cast<const void*>(&device::run_ranks<Element, Op>);
    } else {
      return nullptr;
    }
  }
};

}  // namespace

const void* lane_ranks_kernel(DType dtype, ReduceOp reduce_op) {
  return device::find_reduction(dtype, reduce_op, FindRanks{});
}

const void* copy_ranks_kernel() { return lane_ranks_kernel(DType::kUInt8, ReduceOp::kBor); }

const void* small_ranks_kernel(DType dtype) {
  if (dtype == DType::kBFloat16) {
    return reinterpret_cast<const void*>(&device::all_reduce_small_ranks<Short<BFloat16>, Sum>);
  }
  return reinterpret_cast<const void*>(&device::all_reduce_small_ranks<Real<float>, Sum>);
}

}  // namespace fastgpu::test
