// The codecs that shorten float32 data: fp16 and bf16 round each element, int8 and int4 round
// blocks of elements to multiples of a scale, topk keeps the largest elements of a block, and 1bit
// the signs. docs/compression.md has the formats and their error.
//
// Every instruction set gives the same bits, so ranks on different machines may exchange and
// compare encoded data. The size depends on the codec and the count alone: encoded_bytes().
//
// Threading: pure functions, without state.
#pragma once

#include "base/codec.h"
#include "kernels/kernel.h"

namespace fastgpu {

// Returns the loops of the codec in the widest SIMD that the CPU has, or nullptr for kNone.
const CodecKernels* find_codec(Codec codec);

}  // namespace fastgpu
