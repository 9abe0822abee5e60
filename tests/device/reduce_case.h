// N-way reductions to run on the pretended machine or on a GPU, and their results by the CPU's
// kernels.
//
// Threading: one thread.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "memory.h"

namespace fastgpu::test {

struct ReduceCase {
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;
  int sources = 1;
  int targets = 1;
  std::size_t count = 0;
  std::size_t shift = 0;  // elements
  bool apart = false;     // the last source lies otherwise within 16 bytes
  bool in_place = false;  // target 0 is source 0
  double factor = 1;

  std::size_t size_bytes() const { return count * size_of(dtype); }
  // How far behind a border of 16 bytes source `number` begins; the targets lie as source 0.
  std::size_t shift_bytes(int number) const {
    const std::size_t moved = apart && number + 1 == sources ? 1 : 0;
    return (shift + moved) * size_of(dtype);
  }
};

std::string describe(const ReduceCase& reduce_case);

// A case whose sources, places and size are drawn.
ReduceCase draw_reduce(DType dtype, ReduceOp reduce_op, std::mt19937_64& random);

std::vector<DeviceMemory> draw_sources(const ReduceCase& reduce_case, uint64_t seed);
DeviceMemory reduce_on_cpu(const ReduceCase& reduce_case, const std::vector<DeviceMemory>& sources);

}  // namespace fastgpu::test
