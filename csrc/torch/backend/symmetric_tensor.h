// Tensors in symmetric memory, which the ranks of this host read in place.
// Ownership: a tensor's memory is freed with its storage. Thread safety: any thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace fastgpu {

// Raises OutOfResourcesError, or std::bad_alloc for a size that no machine has.
at::Tensor symmetric_tensor(const std::vector<int64_t>& sizes, at::ScalarType dtype);

}  // namespace fastgpu
