// The dtypes and reductions that the tests of the reduction kernels sweep over.
#pragma once

#include <vector>

#include "base/dtype.h"

namespace fastgpu::test {

template <typename Value, int kCount>
std::vector<Value> first_values() {
  std::vector<Value> values;
  values.reserve(kCount);
  for (int value = 0; value < kCount; ++value) values.push_back(static_cast<Value>(value));
  return values;
}

inline std::vector<DType> all_dtypes() { return first_values<DType, kDTypeCount>(); }
inline std::vector<ReduceOp> all_reduce_ops() { return first_values<ReduceOp, kReduceOpCount>(); }

// Whether torch's meaning of the operation carries over to the dtype.
inline bool has_meaning(DType dtype, ReduceOp op) {
  const bool is_bitwise = op == ReduceOp::kBand || op == ReduceOp::kBor || op == ReduceOp::kBxor;
  if (dtype == DType::kBool) return op != ReduceOp::kAvg && op != ReduceOp::kPremulSum;
  if (dtype >= DType::kInt8 && dtype <= DType::kUInt64) return op != ReduceOp::kPremulSum;
  if (dtype >= DType::kComplex64)
    return !is_bitwise && op != ReduceOp::kMin && op != ReduceOp::kMax;
  return !is_bitwise;
}

}  // namespace fastgpu::test
