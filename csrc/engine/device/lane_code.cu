#include "engine/device/find_lanes.h"
#include "engine/device/lane_code.h"

namespace fastgpu::device {

const void* lanes_kernel(DType dtype, ReduceOp reduce_op) {
  return reinterpret_cast<const void*>(find_lanes(dtype, reduce_op));
}

const void* copy_lanes_kernel() { return reinterpret_cast<const void*>(find_copy_lanes()); }

}  // namespace fastgpu::device
