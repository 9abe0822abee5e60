// The conversions of device code, beside those of the CPU.
//
// Threading: one thread.
#pragma once

#include <cstdint>

namespace fastgpu::test {

// Number of wrong results, and the first: input << 32 | what was found.
struct WrongCodes {
  unsigned long long count;
  unsigned long long first;
};

struct NarrowArgs {
  uint64_t first;  // the floats are those with the bits first, first + 1, ...
  uint64_t count;
  const uint16_t* expected;  // their codes
  WrongCodes* wrong;
};

// For Float16 and BFloat16. A float stands once in the lower and once in the upper half of a pair.
template <typename Format>
void launch_narrow(const NarrowArgs& args);

// All codes, in both halves; NaN stands for every NaN. `expected` has the bits of the floats.
template <typename Format>
void launch_widen(const uint32_t* expected, WrongCodes* wrong);

}  // namespace fastgpu::test
