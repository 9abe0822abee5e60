#include "kernels/reduce.h"

#include "kernels/cpu/variant.h"

namespace fastgpu {
namespace {

std::string why_not_bool(ReduceOp reduce_op) {
  return std::string(name_of(reduce_op)) +
         " is not defined for bool; use SUM, MAX or BOR (any), PRODUCT, MIN or BAND (all), or BXOR";
}

std::string why_not_integer(ReduceOp reduce_op, DType dtype) {
  return std::string(name_of(reduce_op)) + " is not defined for " + std::string(name_of(dtype)) +
         ", which cannot hold a fraction; convert to a floating-point dtype first";
}

}  // namespace

ReduceKernel find_reduce(DType dtype, ReduceOp reduce_op) {
  return cpu::active_variant().find_reduce(dtype, reduce_op);
}

ReduceBothKernel find_reduce_both(DType dtype, ReduceOp reduce_op) {
  return cpu::active_variant().find_reduce_both(dtype, reduce_op);
}

std::string why_not(DType dtype, ReduceOp reduce_op) {
  if (find_reduce(dtype, reduce_op) != nullptr) return "";
  if (dtype == DType::kBool) return why_not_bool(reduce_op);
  if (reduce_op == ReduceOp::kPremulSum) return why_not_integer(reduce_op, dtype);
  const std::string what =
      std::string(name_of(reduce_op)) + " is not defined for " + std::string(name_of(dtype));
  if (reduce_op == ReduceOp::kMin || reduce_op == ReduceOp::kMax)
    return what + ": complex numbers have no order";
  return what + ": bitwise operations take integers and bool";
}

void scale(std::byte* data, std::size_t count, DType dtype, double factor) {
  cpu::active_variant().scale(data, count, dtype, factor);
}

const char* simd_level() { return cpu::active_variant().name; }

}  // namespace fastgpu
