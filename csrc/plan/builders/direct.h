// Direct algorithms: every rank exchanges frames with every other rank. Reductions are in rank
// order.
//
// Threading: pure functions, any thread.
#pragma once

#include <span>
#include <vector>

#include "plan/builders/lane_context.h"

namespace fastgpu {

// Whether a direct all-reduce takes one shot instead of two. `shots` 0 decides by size: one shot as
// long as a rank sends at most kOneShotBytes. Beyond that, two-shot's second round trip costs less
// than the bytes that it saves. choose() decides by price instead, and sets `shots`.
inline constexpr uint64_t kOneShotBytes = 128 * 1024;
bool takes_one_shot(uint64_t bytes, int world, int shots);

// all_to_all: a rank that sends at most kPostAllBytes posts all sends before its first receive.
// Otherwise it posts the sends of kTurnsAhead turns before the first receive.
inline constexpr uint64_t kPostAllBytes = 1024 * 1024;
inline constexpr int kTurnsAhead = 7;

// The members of a collective among some ranks: ranks[index] is this rank. Shard j belongs to
// ranks[j]; there may be fewer shards than ranks.
struct RankSubset {
  std::span<const int> ranks;
  int index = 0;

  int size() const { return static_cast<int>(ranks.size()); }
};

std::vector<int> all_ranks(int world);  // 0, 1, ..., world - 1

// Adds the contributions of all members in their order into `target`. This rank's own contribution
// is in `own`, which may be `target` only if this rank is the first member.
void reduce_in_order(LaneBuilder& steps, const RankSubset& subset, const Region& own,
                     const Region& target);

// The two halves of two-shot; hierarchical uses them, too.
// reduce_scatter_shards: each owner gets its shard, reduced in the members' order. `own_copy` holds
// the owner's contribution while the sum replaces it; scratch_for_own_shard allocates it, or
// returns an empty region if none is needed.
Region scratch_for_own_shard(const RankSubset& subset, const Partition& shards,
                             ScratchLayout& scratch);
void reduce_scatter_shards(LaneBuilder& steps, const RankSubset& subset, const Partition& shards,
                           const Region& own_copy);
// all_gather_shards: each owner sends its shard to all members.
void all_gather_shards(LaneBuilder& steps, const RankSubset& subset, const Partition& shards);

void direct_all_reduce(LaneContext& context);
void direct_reduce_scatter(LaneContext& context);
void direct_all_gather(LaneContext& context);
void direct_all_to_all(LaneContext& context);

}  // namespace fastgpu
