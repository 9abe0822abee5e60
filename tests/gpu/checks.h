// The sections of the program. Each prints its lines, and throws GpuError if the GPU fails.
//
// Threading: one thread.
#pragma once

#include "lines.h"

namespace fastgpu::test {

struct CheckOptions {
  bool reduced = false;  // few cases, for compute-sanitizer
};

void check_conversions(Lines& lines, const CheckOptions& options);
void check_reduce(Lines& lines, const CheckOptions& options);
// All ranks in one cooperative launch.
void check_lanes(Lines& lines, const CheckOptions& options);
void check_small(Lines& lines, const CheckOptions& options);
// A launch for each rank, as communicators do it; kernels run at the same time.
void check_launches(Lines& lines, const CheckOptions& options);
// Kernels that cannot succeed end, and say why.
void check_failures(Lines& lines, const CheckOptions& options);
void check_codec(Lines& lines, const CheckOptions& options);
void measure_codec(Lines& lines, const CheckOptions& options);
void measure_rates(Lines& lines, const CheckOptions& options);

}  // namespace fastgpu::test
