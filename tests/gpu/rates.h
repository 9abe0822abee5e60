// Measures kernels beside a copy: every repetition runs each of them once, in turn, so that a
// change of the GPU's clocks meets all. Medians count.
//
// Threading: one thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lines.h"

namespace fastgpu::test {

// GpuMemory::fill() with ordinary numbers, of every floating-point dtype.
inline constexpr int kFilled = 0x3c;

// One kernel, or several launches of it.
struct Timed {
  std::string what;
  double bytes = 0;                // read and written by all launches
  double target = 0;               // part of the copy's rate; 0: there is none
  std::function<void()> launch{};  // in the default stream
};

// Prints the rate of a copy from the GPU to itself, and of each.
void measure_beside_copy(Lines& lines, const std::vector<Timed>& all);

// The median time of each, in seconds.
std::vector<double> medians_of(const std::vector<Timed>& all, int repetitions);

}  // namespace fastgpu::test
