// Collectives between a root and every other rank in one hop, and the barrier.
//
// Threading: pure functions, any thread.
#pragma once

#include "plan/builders/lane_context.h"

namespace fastgpu {

void direct_broadcast(LaneContext& context);
void direct_reduce(LaneContext& context);
void direct_gather(LaneContext& context);
void direct_scatter(LaneContext& context);
void barrier(LaneContext& context);

}  // namespace fastgpu
