#include "kernels/convert.h"

#include <string>

#include "base/error.h"
#include "kernels/cpu/variant.h"

namespace fastgpu {
namespace {

void check_short(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
    case DType::kBFloat16:
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2:
    case DType::kFloat8E4M3Fnuz:
    case DType::kFloat8E5M2Fnuz:
      return;
    default:
      raise(ErrorKind::kInvalidArgument,
            std::string(name_of(dtype)) +
                " is not a short float; allowed are float16, bfloat16, float8_e4m3fn, "
                "float8_e5m2, float8_e4m3fnuz and float8_e5m2fnuz");
  }
}

}  // namespace

void widen(const std::byte* source, DType dtype, float* target, std::size_t count) {
  check_short(dtype);
  cpu::active_variant().widen(source, dtype, target, count);
}

void narrow(const float* source, std::byte* target, DType dtype, std::size_t count) {
  check_short(dtype);
  cpu::active_variant().narrow(source, target, dtype, count);
}

}  // namespace fastgpu
