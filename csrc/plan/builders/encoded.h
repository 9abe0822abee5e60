// All-reduce in two shots whose frames between hosts are encoded: few bytes on slow networks.
// Threading: pure functions, any thread.
#pragma once

#include "plan/builders/hosts.h"
#include "plan/builders/lane_context.h"

namespace fastgpu {

// single_ranks() as `hosts` makes it the direct algorithm, which encodes every frame.
void encoded_all_reduce(LaneContext& context, const Hosts& hosts);

}  // namespace fastgpu
