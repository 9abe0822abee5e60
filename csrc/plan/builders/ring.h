// Ring algorithms: every rank sends to the next rank and receives from the previous one. Odd lanes
// run in the other direction, so that both directions of every link are busy.
//
// Threading: pure functions, any thread.
#pragma once

#include <span>

#include "plan/builders/lane_context.h"

namespace fastgpu {

// A ring of members 0 .. size - 1, seen from one of them. Members stand for ranks of the world.
struct Ring {
  int size = 1;
  int index = 0;      // this rank's member number
  int direction = 1;  // data moves from member i to member i + direction
  int previous = 0;   // rank
  int next = 0;       // rank

  // The member `hops` places behind this one; its data arrives here after `hops` hops.
  int behind(int hops) const { return ((index - direction * hops) % size + size) % size; }
};

// The ring over ranks[0], ranks[1], ...; this rank is ranks[index].
Ring ring_of(std::span<const int> ranks, int index, int lane);
Ring ring_of_world(const PlanRequest& request, int lane);

// The all-reduce of one region, cut into one shard per member. hierarchical uses it, too.
void ring_all_reduce(LaneBuilder& steps, const Ring& ring, const Partition& shards);

void ring_all_reduce(LaneContext& context);
void ring_reduce_scatter(LaneContext& context);
void ring_all_gather(LaneContext& context);
void ring_broadcast(LaneContext& context);

}  // namespace fastgpu
