// From a dtype and a reduce op to the element type and operation that kernels are instantiated
// with. Different dtypes share an instance where the bits allow it.
//
// Threading: pure functions.
#pragma once

#include "base/dtype.h"
#include "kernels/cuda/reduce.h"

namespace fastgpu::device {

// `Find` has a template operator()<Element, Op>(), which returns a kernel. The functions return
// what it returns, or nullptr if the operation is not defined, for the same dtypes and operations
// as find_reduce() of the CPU.

template <typename Element, typename Find>
auto find_ordered(ReduceOp reduce_op, Find find)
    -> decltype(find.template operator()<Element, Sum>()) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
    case ReduceOp::kPremulSum:
      return find.template operator()<Element, Sum>();
    case ReduceOp::kProduct:
      return find.template operator()<Element, Product>();
    case ReduceOp::kMin:
      return find.template operator()<Element, Min>();
    case ReduceOp::kMax:
      return find.template operator()<Element, Max>();
    default:
      return nullptr;
  }
}

// Sums, products and bits do not depend on the sign, and bits not on the size.
template <typename Number, typename Unsigned, typename Find>
auto find_integer(ReduceOp reduce_op, Find find)
    -> decltype(find.template operator()<Integer<Number>, Min>()) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
      return find.template operator()<Integer<Unsigned>, Sum>();
    case ReduceOp::kProduct:
      return find.template operator()<Integer<Unsigned>, Product>();
    case ReduceOp::kMin:
      return find.template operator()<Integer<Number>, Min>();
    case ReduceOp::kMax:
      return find.template operator()<Integer<Number>, Max>();
    case ReduceOp::kBand:
      return find.template operator()<Integer<uint8_t>, BitAnd>();
    case ReduceOp::kBor:
      return find.template operator()<Integer<uint8_t>, BitOr>();
    case ReduceOp::kBxor:
      return find.template operator()<Integer<uint8_t>, BitXor>();
    default:
      return nullptr;
  }
}

template <typename Find>
auto find_bool(ReduceOp reduce_op, Find find) -> decltype(find.template operator()<Bool, BitOr>()) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kMax:
    case ReduceOp::kBor:
      return find.template operator()<Bool, BitOr>();
    case ReduceOp::kProduct:
    case ReduceOp::kMin:
    case ReduceOp::kBand:
      return find.template operator()<Bool, BitAnd>();
    case ReduceOp::kBxor:
      return find.template operator()<Bool, BitXor>();
    default:
      return nullptr;
  }
}

// The sum of complex numbers is that of twice as many real ones.
template <typename Number, typename Find>
auto find_complex(ReduceOp reduce_op, Find find)
    -> decltype(find.template operator()<Complex<Number>, Product>()) {
  switch (reduce_op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
    case ReduceOp::kPremulSum:
      return find.template operator()<Real<Number>, Sum>();
    case ReduceOp::kProduct:
      return find.template operator()<Complex<Number>, Product>();
    default:
      return nullptr;
  }
}

template <typename Find>
auto find_reduction(DType dtype, ReduceOp reduce_op, Find find)
    -> decltype(find.template operator()<Bool, BitOr>()) {
  switch (dtype) {
    case DType::kFloat64:
      return find_ordered<Real<double>>(reduce_op, find);
    case DType::kFloat32:
      return find_ordered<Real<float>>(reduce_op, find);
    case DType::kFloat16:
      return find_ordered<Short<Float16>>(reduce_op, find);
    case DType::kBFloat16:
      return find_ordered<Short<BFloat16>>(reduce_op, find);
    case DType::kFloat8E4M3:
      return find_ordered<Short<Float8E4M3>>(reduce_op, find);
    case DType::kFloat8E5M2:
      return find_ordered<Short<Float8E5M2>>(reduce_op, find);
    case DType::kFloat8E4M3Fnuz:
      return find_ordered<Short<Float8E4M3Fnuz>>(reduce_op, find);
    case DType::kFloat8E5M2Fnuz:
      return find_ordered<Short<Float8E5M2Fnuz>>(reduce_op, find);
    case DType::kInt8:
      return find_integer<int8_t, uint8_t>(reduce_op, find);
    case DType::kUInt8:
      return find_integer<uint8_t, uint8_t>(reduce_op, find);
    case DType::kInt16:
      return find_integer<int16_t, uint16_t>(reduce_op, find);
    case DType::kUInt16:
      return find_integer<uint16_t, uint16_t>(reduce_op, find);
    case DType::kInt32:
      return find_integer<int32_t, uint32_t>(reduce_op, find);
    case DType::kUInt32:
      return find_integer<uint32_t, uint32_t>(reduce_op, find);
    case DType::kInt64:
      return find_integer<int64_t, uint64_t>(reduce_op, find);
    case DType::kUInt64:
      return find_integer<uint64_t, uint64_t>(reduce_op, find);
    case DType::kBool:
      return find_bool(reduce_op, find);
    case DType::kComplex64:
      return find_complex<float>(reduce_op, find);
    case DType::kComplex128:
      return find_complex<double>(reduce_op, find);
  }
  return nullptr;
}

}  // namespace fastgpu::device
