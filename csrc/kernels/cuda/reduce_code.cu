#include "kernels/cuda/divide.h"
#include "kernels/cuda/find_reduce_all.h"
#include "kernels/cuda/reduce_code.h"

namespace fastgpu::device {

const void* reduce_all_kernel(DType dtype, ReduceOp reduce_op) {
  return reinterpret_cast<const void*>(find_reduce_all(dtype, reduce_op));
}

const void* divide_kernel(DType dtype) { return reinterpret_cast<const void*>(find_divide(dtype)); }

}  // namespace fastgpu::device
