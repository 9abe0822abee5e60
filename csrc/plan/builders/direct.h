// Direct algorithms: every rank talks to every rank. Whatever reduces does so in rank order.
#pragma once

#include <span>
#include <vector>

#include "plan/builders/lane_context.h"

namespace fastgpu {

// One-shot as long as a rank sends no more than this, where nobody has said which: beyond it the
// second round trip of two-shot costs less than the bytes that it saves. `choose` says by price.
inline constexpr uint64_t kOneShotBytes = 128 * 1024;
bool takes_one_shot(uint64_t bytes, int world, int shots);

// all_to_all: a rank that sends no more than this sends all of it before it waits; one that sends
// more keeps so many turns under way.
inline constexpr uint64_t kPromptBytes = 1024 * 1024;
inline constexpr int kTurnsAhead = 7;

// Ranks that share shards: the one at `index` is me, and shard j belongs to ranks[j] (there may be
// fewer shards than ranks).
struct RankSubset {
  std::span<const int> ranks;
  int index = 0;

  int size() const { return static_cast<int>(ranks.size()); }
};

std::vector<int> all_ranks(int world);  // 0, 1, ...

// Sums everybody's contribution in the circle's order into `target`; mine lies at `own`, which is
// `target` only where I am first.
void reduce_in_order(LaneBuilder& steps, const RankSubset& subset, const Region& own,
                     const Region& target);

// The two halves of two-shot, blocks that hierarchical uses too: first each owner holds its shard
// reduced in the circle's order, `kept` holding its own contribution meanwhile (keep_for: nothing
// where it is the first); then everybody holds every shard.
Region keep_for(const RankSubset& subset, const Partition& shards, ScratchLayout& scratch);
void scatter_reduce(LaneBuilder& steps, const RankSubset& subset, const Partition& shards,
                    const Region& kept);
void share_shards(LaneBuilder& steps, const RankSubset& subset, const Partition& shards);

void direct_all_reduce(LaneContext& context);
void direct_reduce_scatter(LaneContext& context);
void direct_all_gather(LaneContext& context);
void direct_all_to_all(LaneContext& context);

}  // namespace fastgpu
