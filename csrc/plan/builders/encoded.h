// All-reduce in two shots whose frames between hosts are encoded: few bytes on slow networks.
// Threading: pure functions, any thread.
#pragma once

#include "plan/builders/hosts.h"
#include "plan/builders/lane_context.h"

namespace fastgpu {

// With one_rank_per_host() this is the direct algorithm: every frame is encoded.
void encoded_all_reduce(LaneContext& context, const Hosts& hosts);

}  // namespace fastgpu
