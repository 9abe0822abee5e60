// Collective calls drawn from a seed, with what all ranks need to build their schedules.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "plan/build.h"
#include "plan/schedule.h"

namespace fastgpu::test {

struct CallCase {
  PlanRequest request;
  std::vector<int> host_of;          // of the request; kept here, so that a copy has its own
  std::vector<uint64_t> all_counts;  // of an uneven all_to_all; else empty
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;
};

// A call of 1 to `most_ranks` ranks.
CallCase draw_call(std::mt19937_64& random, int most_ranks);
// By rank.
std::vector<Schedule> schedules_of(const CallCase& call);

}  // namespace fastgpu::test
