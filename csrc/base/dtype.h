// The element types and the reduce ops that every layer uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fastgpu {

enum class DType : uint8_t {
  kFloat64,
  kFloat32,
  kFloat16,
  kBFloat16,
  kFloat8E4M3,  // torch.float8_e4m3fn: no infinities, 0x7f is NaN
  kFloat8E5M2,
  kFloat8E4M3Fnuz,  // one zero, no infinities, 0x80 is NaN
  kFloat8E5M2Fnuz,
  kInt8,
  kUInt8,
  kInt16,
  kUInt16,
  kInt32,
  kUInt32,
  kInt64,
  kUInt64,
  kBool,
  kComplex64,
  kComplex128,
};
inline constexpr int kDTypeCount = 19;

enum class ReduceOp : uint8_t { kSum, kAvg, kProduct, kMin, kMax, kBand, kBor, kBxor, kPremulSum };
inline constexpr int kReduceOpCount = 9;

// The dtype of the parts of a complex number. Other dtypes are returned unchanged.
constexpr DType part_of(DType dtype) {
  if (dtype == DType::kComplex64) return DType::kFloat32;
  if (dtype == DType::kComplex128) return DType::kFloat64;
  return dtype;
}

std::size_t size_of(DType dtype);              // bytes of one element
std::string_view name_of(DType dtype);         // as torch writes it: "float32"
std::string_view name_of(ReduceOp reduce_op);  // as torch writes it: "SUM"
// "4 elements of float32"
std::string describe_elements(DType dtype, uint64_t size_bytes);

}  // namespace fastgpu
