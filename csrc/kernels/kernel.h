// The signatures of the loops over elements that channels and operations are given.
// Threading: a kernel is a pure function; any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastgpu {

// target[i] = target[i] op source[i] for `count` elements. Both are aligned to the element size,
// and either do not overlap or are the same.
using ReduceKernel = void (*)(std::byte* target, const std::byte* source, std::size_t count);
// The same, and afterwards source[i] = target[i].
using ReduceBothKernel = void (*)(std::byte* target, std::byte* source, std::size_t count);
// As memcpy.
using CopyKernel = void (*)(std::byte* target, const std::byte* source, std::size_t size_bytes);

// The loops of one codec, over `count` elements of float32; `target` and `source` have
// encoded_bytes(codec, count) on the encoded side. Arrays do not overlap. Floats and 16-bit codes
// are aligned to their size; data of block codecs need no alignment. Block codecs encode `count`
// elements as a whole: parts that are encoded separately are decoded separately.
struct CodecKernels {
  void (*encode)(const float* source, std::byte* target, std::size_t count);
  void (*decode)(const std::byte* source, float* target, std::size_t count);
  // target[i] += decoded[i], in float32.
  void (*decode_add)(const std::byte* source, float* target, std::size_t count);
  // Encodes source + residual, and leaves in `residual` what the encoding lost. A block (an element
  // of fp16 and bf16) that does not decode to finite numbers leaves its residual as it was.
  void (*encode_feedback)(const float* source, float* residual, std::byte* target,
                          std::size_t count);
  // The same with stochastic rounding, by random bits that `key` decides; without error feedback if
  // `residual` is nullptr. nullptr for codecs other than int8 and int4.
  void (*encode_stochastic)(const float* source, float* residual, std::byte* target,
                            std::size_t count, uint64_t key) = nullptr;
};

}  // namespace fastgpu
