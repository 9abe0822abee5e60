// Translates tensors and reduce ops of torch into those of the communicator, and checks arguments.
// A failed check raises InvalidArgumentError with the name of the call, what was given, what is
// allowed, and what to do.
// Thread safety: pure functions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <vector>

#include "base/dtype.h"

namespace fastgpu {

using TensorList = std::vector<at::Tensor>;

struct Elements {
  DType dtype = DType::kUInt8;
  uint64_t count = 0;
};
// For a call that only moves data. A dtype that the communicator does not know is sent as bytes.
Elements elements_of(const at::Tensor& tensor);
// For a call that reduces. Refuses a dtype that cannot be reduced.
Elements reducible_of(const std::string& op, const at::Tensor& tensor);

struct ScaledReduceOp {
  ReduceOp op = ReduceOp::kSum;
  double premul_factor = 1.0;
};
ScaledReduceOp reduction_of(const std::string& op, const c10d::ReduceOp& reduce_op);

// A tensor of the CPU, with any strides, or of a GPU, contiguous in some memory format.
void check_dense(const std::string& op, const at::Tensor& tensor);
// As check_dense(), for a call that only takes tensors of the CPU.
void check_dense_cpu(const std::string& op, const at::Tensor& tensor);
// As check_dense(), for a tensor that the call writes on some rank.
void check_writable(const std::string& op, const at::Tensor& tensor);
void check_same_dtype(const std::string& op, const at::Tensor& one, const at::Tensor& other);
// `list` must have `wanted` tensors: one per `per`, which is "rank" or "input".
void check_list_size(const std::string& op, const char* list, std::size_t given, std::size_t wanted,
                     const char* per = "rank");
// The tensor of a list of one. c10d passes a list with one tensor per device of the process.
const at::Tensor& single(const char* op, const TensorList& tensors);
// `root`, which must be a rank of the group.
int root_of(const std::string& op, int64_t root, int world);

}  // namespace fastgpu
