// Recursive halving and doubling: few hops, each between two partners; for worlds of many ranks.
//
// Threading: pure functions, any thread.
#pragma once

#include "plan/builders/lane_context.h"

namespace fastgpu {

void halving_all_reduce(LaneContext& context);

}  // namespace fastgpu
