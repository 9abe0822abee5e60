// The memory of error feedback: the part of each element of an array that encoding has lost so far.
// It takes 4 bytes per element as float32, or 1.03 in the format of int8 (docs/compression.md).
// Scales and codes are apart here, so that an encoding may start at any element.
//
// Ownership: the caller's memory. Threading: one call at a time for a residual.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "kernels/kernel.h"

namespace fastgpu {

// Either `values` or the rest is set; or nothing, which means no error feedback.
struct Residual {
  float* values = nullptr;
  std::byte* codes = nullptr;   // a byte for each element
  std::byte* scales = nullptr;  // kScaleBytes for each kInt8Block elements
  std::size_t count = 0;        // elements; only the 8-bit form needs it
};

// Encodes source + residual of the elements from `first` on, and updates their residual. Blocks of
// the 8-bit form that end up with the same values keep their bits. If the elements end inside a
// block, the block's other elements are rounded again. With a key the codec rounds stochastically,
// by bits of the key and of each element's index in the array.
void encode_with(const CodecKernels& kernels, const Residual& residual,
                 std::optional<uint64_t> random_key, std::size_t first,
                 std::span<const float> source, std::byte* target);

// Adds the residual of the elements from `first` on to them, and sets it to 0, except where the sum
// is not finite. Where the residual is 0, the element stays as it is. Quick if all are 0, which is
// the usual case.
void add_residual(const Residual& residual, std::size_t first, std::span<float> values);

// Converts elements of the 8-bit form to float32.
void load(const Residual& residual, std::size_t first, float* values, std::size_t count);
// Converts all elements. Values that load() gave are stored exactly if they are whole blocks again.
void store(const float* values, const Residual& residual);

}  // namespace fastgpu
