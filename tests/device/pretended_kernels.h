// The kernels of engine/device for the pretended runtime: a few reductions only, since each takes
// long to compile. There are SUM, and AVG of floating-point numbers, of float32, bfloat16, float16
// and 64-bit integers; MAX of float32; BOR and BXOR of all integers. Those of 8 bytes have no
// small all_reduce.
//
// Threading: any thread.
#pragma once

#include "engine/device/lane_code.h"

namespace fastgpu::device {

LaneKernels pretended_kernels();

}  // namespace fastgpu::device
