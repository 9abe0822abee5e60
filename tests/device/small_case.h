// Small all_reduces to run in a row, on the pretended machine or on a GPU, and their results by the
// CPU's kernels.
//
// Threading: one thread.
#pragma once

#include <string>
#include <vector>

#include "base/dtype.h"
#include "memory.h"

namespace fastgpu::test {

struct SmallCase {
  int world = 2;
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;
  std::vector<uint64_t> counts{64};  // of each operation
  uint64_t ended = 0xfffffffd;       // operations before the first
  std::size_t shift = 0;             // elements
  bool averages = false;
  bool slow_stream = false;
  uint64_t seed = 1;
  // Plant faults, to test the tests.
  bool has_one_set = false;
  uint32_t first_slot_flag = 0;  // of all slots at first, as an operation of long ago left them
};

std::string describe(const SmallCase& small_case);

SmallCase draw_small(uint64_t seed);

// The inputs of an operation, and the result that every rank must have.
struct SmallData {
  std::vector<DeviceMemory> inputs;  // by rank
  DeviceMemory expected;
};

// By operation.
std::vector<SmallData> draw_data(const SmallCase& small_case);

}  // namespace fastgpu::test
