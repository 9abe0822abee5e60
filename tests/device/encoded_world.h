// An all_reduce with encoded frames by the codec kernels, on streams of the pretended machine,
// against the CPU's engine.
#pragma once

#include <cstdint>
#include <string>

#include "base/codec.h"
#include "simt_machine.h"

namespace fastgpu::test {

struct EncodedCase {
  Codec codec = Codec::kInt8;
  int world = 2;
  std::size_t count = 0;
  bool feedback = false;
  bool stochastic = false;
  double factor = 1;
  uint64_t seed = 1;
  simt::MachineFault fault = simt::MachineFault::kNone;
};

// Runs two all_reduces on the same memory. Returns what differs, or "".
std::string run_encoded(const EncodedCase& encoded_case);

}  // namespace fastgpu::test
