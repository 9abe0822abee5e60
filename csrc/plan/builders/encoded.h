// Two-shot all-reduce whose frames are encoded: few bytes on slow networks.
// Threading: pure functions, any thread.
#pragma once

#include "plan/builders/direct.h"
#include "plan/builders/lane_context.h"

namespace fastgpu {

void encoded_two_shot(LaneContext& context, const RankSubset& subset);

}  // namespace fastgpu
