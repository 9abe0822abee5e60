// The processor time of codecs on this machine. It serves predictions, and no choice of an
// algorithm, so ranks may measure different times.
// Threading: any thread.
#pragma once

#include "base/codec.h"

namespace fastgpu {

// By byte of float32, in one thread, in a block that the cache holds.
struct CodecCosts {
  double encode_us_per_byte = 0;
  double encode_feedback_us_per_byte = 0;
  double decode_us_per_byte = 0;
  double decode_add_us_per_byte = 0;
};

// Measured by the first call for a codec, in a few milliseconds at most, and kept. All 0 for kNone.
const CodecCosts& costs_of(Codec codec);

}  // namespace fastgpu
