// The signatures of the loops over elements that channels and operations are given.
// Threading: a kernel is a pure function; any thread.
#pragma once

#include <cstddef>

namespace fastgpu {

// target[i] = target[i] op source[i] for `count` elements. Both are aligned to the element size,
// and either do not overlap or are the same.
using ReduceKernel = void (*)(std::byte* target, const std::byte* source, std::size_t count);
// The same, and afterwards source[i] = target[i].
using ReduceBothKernel = void (*)(std::byte* target, std::byte* source, std::size_t count);
// As memcpy.
using CopyKernel = void (*)(std::byte* target, const std::byte* source, std::size_t size_bytes);

}  // namespace fastgpu
