#include "torch/backend/elements.h"

#include <ATen/ATen.h>

#include "torch/backend/errors.h"

namespace fastgpu {

std::optional<DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return DType::kFloat64;
    case at::kFloat:
      return DType::kFloat32;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kFloat8_e4m3fn:
      return DType::kFloat8E4M3;
    case at::kFloat8_e5m2:
      return DType::kFloat8E5M2;
    case at::kFloat8_e4m3fnuz:
      return DType::kFloat8E4M3Fnuz;
    case at::kFloat8_e5m2fnuz:
      return DType::kFloat8E5M2Fnuz;
    case at::kChar:
      return DType::kInt8;
    case at::kByte:
      return DType::kUInt8;
    case at::kShort:
      return DType::kInt16;
    case at::kUInt16:
      return DType::kUInt16;
    case at::kInt:
      return DType::kInt32;
    case at::kUInt32:
      return DType::kUInt32;
    case at::kLong:
      return DType::kInt64;
    case at::kUInt64:
      return DType::kUInt64;
    case at::kBool:
      return DType::kBool;
    case at::kComplexFloat:
      return DType::kComplex64;
    case at::kComplexDouble:
      return DType::kComplex128;
    default:
      return std::nullopt;
  }
}

Elements elements_of(const at::Tensor& tensor) {
  const auto count = static_cast<uint64_t>(tensor.numel());
  if (const auto dtype = dtype_of(tensor.scalar_type())) return {*dtype, count};
  return {DType::kUInt8, count * tensor.element_size()};
}

Elements reducible_of(const std::string& op, const at::Tensor& tensor) {
  const auto dtype = dtype_of(tensor.scalar_type());
  if (!dtype) {
    raise_invalid(op, std::string("cannot reduce dtype ") + c10::toString(tensor.scalar_type()) +
                          "; convert the tensor first (float32 loses nothing of it)");
  }
  return {*dtype, static_cast<uint64_t>(tensor.numel())};
}

Reduction reduction_of(const std::string& op, const c10d::ReduceOp& reduce_op) {
  switch (reduce_op.op_) {
    case c10d::ReduceOp::SUM:
      return {ReduceOp::kSum, 1.0};
    case c10d::ReduceOp::AVG:
      return {ReduceOp::kAvg, 1.0};
    case c10d::ReduceOp::PRODUCT:
      return {ReduceOp::kProduct, 1.0};
    case c10d::ReduceOp::MIN:
      return {ReduceOp::kMin, 1.0};
    case c10d::ReduceOp::MAX:
      return {ReduceOp::kMax, 1.0};
    case c10d::ReduceOp::BAND:
      return {ReduceOp::kBand, 1.0};
    case c10d::ReduceOp::BOR:
      return {ReduceOp::kBor, 1.0};
    case c10d::ReduceOp::BXOR:
      return {ReduceOp::kBxor, 1.0};
    case c10d::ReduceOp::PREMUL_SUM: {
      // Renamed to PreMulSumSupplement in torch 2.13, which keeps this name beside it.
      const auto* extra =
          dynamic_cast<const c10d::NCCLPreMulSumSupplement*>(reduce_op.supplement_.get());
      if (extra == nullptr) raise_invalid(op, "PREMUL_SUM comes without its factor");
      const bool in_tensor = extra->tensor_factor.defined();
      return {ReduceOp::kPremulSum,
              in_tensor ? extra->tensor_factor.item<double>() : extra->double_factor};
    }
    default:
      raise_invalid(op, "unknown reduce op");
  }
}

void check_dense_cpu(const std::string& op, const at::Tensor& tensor) {
  if (!tensor.defined()) raise_invalid(op, "a tensor is undefined");
  if (!tensor.device().is_cpu()) {
    raise_invalid(op, "the backend fastgpu takes CPU tensors, and this one is on " +
                          tensor.device().str() +
                          "; move it with .cpu(), or use init_process_group(backend="
                          "'cpu:fastgpu,cuda:nccl') for both");
  }
  if (tensor.layout() != at::kStrided) {
    raise_invalid(op, std::string("takes dense tensors, and this one has layout ") +
                          (tensor.is_sparse() ? "sparse_coo" : "other than strided") +
                          "; only all_reduce takes sparse_coo, for the rest use .to_dense()");
  }
  if (tensor.is_conj() || tensor.is_neg()) {
    raise_invalid(op,
                  "the tensor is a lazily conjugated or negated view; pass "
                  "tensor.resolve_conj().resolve_neg()");
  }
}

void check_same_dtype(const std::string& op, const at::Tensor& one, const at::Tensor& other) {
  if (one.scalar_type() == other.scalar_type()) return;
  raise_invalid(op, std::string("input and output differ in dtype: ") +
                        c10::toString(one.scalar_type()) + " and " +
                        c10::toString(other.scalar_type()));
}

void check_list_size(const std::string& op, const char* list, std::size_t given, std::size_t want) {
  if (given == want) return;
  raise_invalid(op, std::string(list) + " has " + std::to_string(given) +
                        " tensors, and must have " + std::to_string(want) + ", one a rank");
}

const at::Tensor& single(const std::string& op, const TensorList& tensors) {
  if (tensors.size() != 1) {
    raise_invalid(op, "takes a single tensor, not " + std::to_string(tensors.size()));
  }
  return tensors.front();
}

int root_of(const std::string& op, int64_t root, int world) {
  if (root < 0 || root >= world) {
    raise_invalid(
        op, "root rank " + std::to_string(root) + " is not in 0 to " + std::to_string(world - 1));
  }
  return static_cast<int>(root);
}

}  // namespace fastgpu
