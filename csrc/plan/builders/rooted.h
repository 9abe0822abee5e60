// Collectives with a root, root to each and each to root in one hop; and the barrier.
#pragma once

#include "plan/builders/lane_context.h"

namespace fastgpu {

void direct_broadcast(Draft& draft);
void direct_reduce(Draft& draft);
void direct_gather(Draft& draft);
void direct_scatter(Draft& draft);
void barrier(Draft& draft);

}  // namespace fastgpu
