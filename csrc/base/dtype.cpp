#include "base/dtype.h"

#include <array>

namespace fastgpu {
namespace {

struct DTypeFacts {
  std::size_t size_bytes;
  std::string_view name;
};

constexpr std::array<DTypeFacts, kDTypeCount> kDTypes{{
    {8, "float64"},       {4, "float32"},     {2, "float16"},         {2, "bfloat16"},
    {1, "float8_e4m3fn"}, {1, "float8_e5m2"}, {1, "float8_e4m3fnuz"}, {1, "float8_e5m2fnuz"},
    {1, "int8"},          {1, "uint8"},       {2, "int16"},           {2, "uint16"},
    {4, "int32"},         {4, "uint32"},      {8, "int64"},           {8, "uint64"},
    {1, "bool"},          {8, "complex64"},   {16, "complex128"},
}};

constexpr std::array<std::string_view, kReduceOpCount> kReduceOps{
    "SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM"};

}  // namespace

std::size_t size_of(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].size_bytes; }

std::string_view name_of(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].name; }

std::string_view name_of(ReduceOp reduce_op) {
  return kReduceOps[static_cast<std::size_t>(reduce_op)];
}

std::string describe_elements(DType dtype, uint64_t size_bytes) {
  const uint64_t count = size_bytes / size_of(dtype);
  return std::to_string(count) + (count == 1 ? " element of " : " elements of ") +
         std::string(name_of(dtype));
}

}  // namespace fastgpu
