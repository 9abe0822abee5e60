// Converts arrays between fp32 and float16, bfloat16 or fp8. Narrowing rounds to nearest, ties to
// even; short_float.h describes NaN and overflow. Other dtypes throw InvalidArgumentError.
//
// Threading: pure functions.
#pragma once

#include <cstddef>

#include "base/dtype.h"

namespace fastgpu {

// target[i] = source[i] for `count` elements of `dtype`. The arrays must not overlap.
void widen(const std::byte* source, DType dtype, float* target, std::size_t count);
void narrow(const float* source, std::byte* target, DType dtype, std::size_t count);

}  // namespace fastgpu
