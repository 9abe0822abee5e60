#include "kernels/cuda/reduce_code.h"

namespace fastgpu::device {

const void* reduce_all_kernel(DType, ReduceOp) { return nullptr; }

const void* divide_kernel(DType) { return nullptr; }

}  // namespace fastgpu::device
