// What of a torch tensor the communicator wants to know, and the checks that say why a tensor
// cannot be taken.
// Thread safety: pure functions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "base/dtype.h"

namespace fastgpu {

using TensorList = std::vector<at::Tensor>;

std::optional<DType> dtype_of(at::ScalarType type);

struct Elements {
  DType dtype = DType::kUInt8;
  uint64_t count = 0;
};
// To move a tensor: dtypes that no reduction knows (the rarer fp8 kinds) travel as bytes.
Elements elements_of(const at::Tensor& tensor);
// To reduce one. Raises InvalidArgumentError for a dtype that cannot be reduced.
Elements reducible_of(const std::string& op, const at::Tensor& tensor);

struct Reduction {
  ReduceOp op = ReduceOp::kSum;
  double premul_factor = 1.0;
};
Reduction reduction_of(const std::string& op, const c10d::ReduceOp& reduce_op);

// Raise InvalidArgumentError naming `op`, what was given and what is allowed.
void check_dense_cpu(const std::string& op, const at::Tensor& tensor);
void check_same_dtype(const std::string& op, const at::Tensor& one, const at::Tensor& other);
void check_list_size(const std::string& op, const char* list, std::size_t given, std::size_t want);
// "requires a single tensor": c10d's lists of one tensor per device of a process.
const at::Tensor& single(const std::string& op, const TensorList& tensors);
int root_of(const std::string& op, int64_t root, int world);

}  // namespace fastgpu
