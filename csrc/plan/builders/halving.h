// Recursive halving and doubling: few hops, each with one partner, for worlds of many ranks.
#pragma once

#include "plan/builders/lane_context.h"

namespace fastgpu {

void halving_all_reduce(LaneContext& context);

}  // namespace fastgpu
