// Two levels: direct inside each host, rings between hosts.
#pragma once

#include "plan/builders/lane_context.h"

namespace fastgpu {

void hierarchical_all_reduce(LaneContext& context);

}  // namespace fastgpu
