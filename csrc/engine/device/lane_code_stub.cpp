#include "engine/device/lane_code.h"

namespace fastgpu::device {

const void* lanes_kernel(DType, ReduceOp) { return nullptr; }
const void* copy_lanes_kernel() { return nullptr; }
const void* small_kernel(DType, ReduceOp) { return nullptr; }

}  // namespace fastgpu::device
