// Puts the steps of several ranks into one order in which every frame is sent before it is
// received, and in which lanes of a rank take turns about as they would at run time.
//
// Ownership: looks at the schedules, returns values. Threading: pure functions, any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/cost/profile.h"
#include "plan/schedule.h"

namespace fastgpu {

struct RankSchedule {
  int rank = 0;
  Schedule schedule;
};

struct OrderRequest {
  int world = 1;
  std::span<const int> host_of;  // as in PlanRequest
  uint64_t size_bytes = 1;       // of the call that the schedules were built for
};

// Fills in the steps, lanes, links and frames of `profile`, its busiest link and its rounds.
void order_steps(std::span<const RankSchedule> ranks, const OrderRequest& request,
                 Profile& profile);

}  // namespace fastgpu
