#include "torch/backend/symmetric_tensor.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <new>

#include "comm/runtime.h"

namespace fastgpu {

at::Tensor symmetric_tensor(const std::vector<int64_t>& sizes, at::ScalarType dtype) {
  std::size_t size_bytes = c10::elementSize(dtype);
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(size_bytes, size, &size_bytes)) throw std::bad_alloc();
  }
  SymmetricHeap& heap = Runtime::shared().heap();
  std::byte* memory = heap.allocate(std::max<std::size_t>(size_bytes, 1));
  return at::from_blob(
      memory, sizes, [&heap](void* freed) { heap.free(static_cast<std::byte*>(freed)); },
      at::TensorOptions().dtype(dtype));
}

}  // namespace fastgpu
