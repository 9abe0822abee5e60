// Ring algorithms: every rank sends to one neighbour and hears from the other; odd lanes run the
// other way round, so that both directions of every link are used.
#pragma once

#include <span>

#include "plan/builders/lane_context.h"

namespace fastgpu {

// My place on a ring of members 0 .. size - 1, which stand for ranks. Data moves by `direction`.
struct Ring {
  int size = 1;
  int index = 0;
  int direction = 1;
  int previous = 0;  // a rank
  int next = 0;      // a rank

  // The member that is `steps` places behind me: what it sends now I hold `steps` hops later.
  int behind(int steps) const { return ((index - direction * steps) % size + size) % size; }
};

// The ring over ranks[0], ranks[1], ..., of which ranks[index] is me.
Ring ring_of(std::span<const int> ranks, int index, int lane);
Ring ring_of_world(const PlanRequest& request, int lane);

// All-reduce of the shards' whole region, in place: a block that hierarchical uses too.
void ring_all_reduce(LaneBuilder& steps, const Ring& ring, const Partition& shards);

void ring_all_reduce(LaneContext& context);
void ring_reduce_scatter(LaneContext& context);
void ring_all_gather(LaneContext& context);
void ring_broadcast(LaneContext& context);

}  // namespace fastgpu
