#include "torch/backend/elements.h"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <c10/util/StringUtil.h>

#include <optional>

#include "torch/backend/devices.h"
#include "torch/backend/errors.h"

namespace fastgpu {
namespace {

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

}  // namespace

Elements elements_of(const at::Tensor& tensor) {
  const auto count = static_cast<uint64_t>(tensor.numel());
  if (const auto dtype = dtype_of(tensor.scalar_type())) return {*dtype, count};
  return {DType::kUInt8, count * tensor.element_size()};
}

Elements reducible_of(const std::string& op, const at::Tensor& tensor) {
  const auto dtype = dtype_of(tensor.scalar_type());
  if (!dtype) {
    raise_invalid(op,
                  std::string("tensors of dtype ") + c10::toString(tensor.scalar_type()) +
                      " cannot be reduced; convert the tensor first, for example with .float()");
  }
  return {*dtype, static_cast<uint64_t>(tensor.numel())};
}

ScaledReduceOp reduction_of(const std::string& op, const c10d::ReduceOp& reduce_op) {
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
      // torch 2.13 renamed this class to PreMulSumSupplement and keeps the old name as an alias.
      const auto* extra =
          dynamic_cast<const c10d::NCCLPreMulSumSupplement*>(reduce_op.supplement_.get());
      if (extra == nullptr) {
        raise_invalid(op,
                      "PREMUL_SUM has no factor; make the op with "
                      "torch.distributed._make_nccl_premul_sum(factor)");
      }
      const bool in_tensor = extra->tensor_factor.defined();
      return {ReduceOp::kPremulSum,
              in_tensor ? extra->tensor_factor.item<double>() : extra->double_factor};
    }
    default:
      raise_invalid(op,
                    "the reduce op is unknown; use SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR or "
                    "PREMUL_SUM");
  }
}

void check_dense(const std::string& op, const at::Tensor& tensor) {
  if (!tensor.defined()) raise_invalid(op, "a tensor is undefined; pass a defined one");
  const bool on_device = is_on_device(tensor);
  if (!tensor.device().is_cpu() && !on_device) {
    raise_invalid(op, "a tensor is on " + tensor.device().str() +
                          ", and the backend fastgpu takes tensors of the CPU and of NVIDIA GPUs; "
                          "move it with .cpu()");
  }
  if (tensor.layout() != at::kStrided) {
    raise_invalid(op, c10::str("a tensor has layout ", tensor.layout(),
                               ", and must be dense; pass tensor.to_dense() (all_reduce also takes "
                               "sparse COO tensors)"));
  }
  if (tensor.is_conj() || tensor.is_neg()) {
    raise_invalid(op,
                  "a tensor is a lazily conjugated or negated view; pass "
                  "tensor.resolve_conj().resolve_neg()");
  }
  if (on_device && !tensor.is_contiguous(tensor.suggest_memory_format())) {
    raise_invalid(
        op,
        "a tensor of a GPU is neither contiguous nor in a memory format such as channels_last; "
        "pass tensor.contiguous()");
  }
}

void check_dense_cpu(const std::string& op, const at::Tensor& tensor) {
  check_dense(op, tensor);
  if (tensor.device().is_cpu()) return;
  raise_invalid(op, "a tensor is on " + tensor.device().str() +
                        ", and this call takes tensors of the CPU only; move it with .cpu()");
}

void check_writable(const std::string& op, const at::Tensor& tensor) {
  check_dense(op, tensor);
  if (!tensor.is_contiguous() && at::has_internal_overlap(tensor) == at::MemOverlap::Yes) {
    raise_invalid(op,
                  "several elements of the output share one place in memory, as after expand(); "
                  "pass tensor.contiguous()");
  }
}

void check_same_dtype(const std::string& op, const at::Tensor& one, const at::Tensor& other) {
  if (one.scalar_type() == other.scalar_type()) return;
  raise_invalid(op, std::string("the tensors have different dtypes, ") +
                        c10::toString(one.scalar_type()) + " and " +
                        c10::toString(other.scalar_type()) + "; convert them to the same dtype");
}

void check_list_size(const std::string& op, const char* list, std::size_t given, std::size_t wanted,
                     const char* per) {
  if (given == wanted) return;
  raise_invalid(op, std::string(list) + " has " + std::to_string(given) +
                        " entries, and must have " + std::to_string(wanted) + ", one per " + per);
}

const at::Tensor& single(const char* op, const TensorList& tensors) {
  if (tensors.size() != 1) {
    raise_invalid(op, "takes a list of one tensor, and this list has " +
                          std::to_string(tensors.size()) + "; call it once per tensor");
  }
  return tensors.front();
}

int root_of(const std::string& op, int64_t root, int world) {
  if (root < 0 || root >= world) {
    raise_invalid(op, "the root is rank " + std::to_string(root) +
                          ", and the ranks of the group are 0 to " + std::to_string(world - 1));
  }
  return static_cast<int>(root);
}

}  // namespace fastgpu
