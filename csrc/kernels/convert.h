// Arrays of fp32 to and from float16, bfloat16 and fp8: to nearest even; short_float.h says what
// becomes of what. Other dtypes raise InvalidArgumentError.
// Thread safety: pure functions.
#pragma once

#include <cstddef>

#include "base/dtype.h"

namespace fastgpu {

// target[i] = source[i] for `count` elements of `dtype`; the arrays do not overlap.
void widen(const std::byte* source, DType dtype, float* target, std::size_t count);
void narrow(const float* source, std::byte* target, DType dtype, std::size_t count);

}  // namespace fastgpu
