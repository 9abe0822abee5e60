// Two-level all-reduce: direct inside each host, rings between hosts; with a codec, direct and
// encoded between hosts.
//
// Threading: pure functions, any thread.
#pragma once

#include "plan/builders/lane_context.h"

namespace fastgpu {

void hierarchical_all_reduce(LaneContext& context);

}  // namespace fastgpu
