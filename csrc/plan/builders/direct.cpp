#include "plan/builders/direct.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace fastgpu {

void reduce_in_order(LaneBuilder& steps, const RankSubset& subset, const Region& own,
                     const Region& target) {
  for (int member = 0; member < subset.size(); ++member) {
    if (member != subset.index) {
      const int peer = subset.ranks[static_cast<std::size_t>(member)];
      member == 0 ? steps.recv(peer, target) : steps.recv_reduce(peer, target);
    } else if (member != 0) {
      steps.copy_reduce(own, target);
    } else if (own != target) {
      steps.copy(own, target);
    }
  }
}

void scatter_reduce(LaneBuilder& steps, const RankSubset& subset, const Partition& shards,
                    const Region& kept) {
  for (int ahead = 1; ahead < subset.size(); ++ahead) {
    const int peer = shifted(subset.index, ahead, subset.size());
    if (peer < shards.parts()) {
      steps.send(subset.ranks[static_cast<std::size_t>(peer)], shards[peer]);
    }
  }
  if (subset.index >= shards.parts()) return;
  const Region mine = shards[subset.index];
  Region own = mine;
  if (subset.index > 0) {  // the first member's contribution is stored over mine
    own = {kept.buffer, kept.offset_bytes, mine.size_bytes};
    steps.copy(mine, own);
  }
  reduce_in_order(steps, subset, own, mine);
}

Region keep_for(const RankSubset& subset, const Partition& shards, ScratchLayout& scratch) {
  if (subset.index == 0 || subset.index >= shards.parts()) return {};
  return scratch.take(shards[subset.index].size_bytes);
}

void share_shards(LaneBuilder& steps, const RankSubset& subset, const Partition& shards) {
  const auto rank_of = [&](int member) { return subset.ranks[static_cast<std::size_t>(member)]; };
  const int size = subset.size();
  for (int ahead = 1; ahead < size && subset.index < shards.parts(); ++ahead) {
    steps.send(rank_of(shifted(subset.index, ahead, size)), shards[subset.index]);
  }
  for (int ahead = 1; ahead < size; ++ahead) {
    const int owner = shifted(subset.index, -ahead, size);
    if (owner < shards.parts()) steps.recv(rank_of(owner), shards[owner]);
  }
}

bool takes_one_shot(uint64_t bytes, int world, int shots) {
  if (shots > 0) return shots == 1;
  return bytes <= kOneShotBytes / static_cast<uint64_t>(std::max(1, world - 1));
}

std::vector<int> all_ranks(int world) {
  std::vector<int> ranks(static_cast<std::size_t>(world));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

namespace {

// Everybody sends everything to everybody and sums it in rank order.
//
//        0 <--> 1        1 hop; (n - 1) * S bytes sent by every rank, n * S read and summed
//        ^ \  / ^        order: ((0 + 1) + 2) + ..., on every rank
//        |  \/  |
//        v /  \ v        What is sent lies in the wire buffer: the data is stored over while slow
//        3 <--> 2        peers still take theirs.
void one_shot(LaneContext& context, const RankSubset& subset) {
  const Region data = context.data();
  const Region scratch = context.scratch.take(data.size_bytes);
  context.steps.copy(data, scratch);
  for (int ahead = 1; ahead < subset.size(); ++ahead) {
    context.steps.send(shifted(subset.index, ahead, subset.size()), scratch);
  }
  reduce_in_order(context.steps, subset, subset.index == 0 ? data : scratch, data);
}

}  // namespace

// One-shot when small (above). Two-shot when large: each rank owns a shard, takes it from all and
// sums it in rank order, then gives the sum to all.
//
//        hop 1:  shard j of every rank --> j        hop 2:  j: the sum --> every rank
//
// 2 hops; 2(n - 1)/n * S bytes sent by every rank. Peers are met in turn from the next one on, so
// that not all ranks send to one. A shard is stored over only with the sum that my part is in: my
// send of it is long gone.
// DeepSpeed's and vLLM's shared-memory all-reduces work so, with the two sizes told apart alike.
void direct_all_reduce(LaneContext& context) {
  const PlanRequest& request = context.request;
  const std::vector<int> ranks = all_ranks(request.world);
  const RankSubset subset{ranks, request.rank};
  const uint64_t bytes = request.count * request.element_size;
  if (takes_one_shot(bytes, request.world, request.shots)) return one_shot(context, subset);
  const Chunks blocks = context.blocks();
  const auto shards = [&](int64_t block) { return context.split(blocks[block], request.world); };
  // The first block is a largest one, and so are its shards.
  const Region kept = keep_for(subset, shards(0), context.scratch);
  for (int64_t block = 0; block < blocks.count(); ++block) {
    scatter_reduce(context.steps, subset, shards(block), kept);
    share_shards(context.steps, subset, shards(block));
  }
}

// Each part goes straight to its rank, which sums in rank order.
// 1 hop; (n - 1)/n * S bytes sent by every rank, S the whole input; no scratch.
void direct_reduce_scatter(LaneContext& context) {
  const PlanRequest& request = context.request;
  for (int ahead = 1; ahead < request.world; ++ahead) {
    const int peer = shifted(request.rank, ahead, request.world);
    context.steps.send(peer, context.input(peer));
  }
  const std::vector<int> ranks = all_ranks(request.world);
  reduce_in_order(context.steps, {ranks, request.rank}, context.input(request.rank),
                  context.data());
}

// 1 hop; (n - 1)/n * S bytes sent by every rank, S the whole output.
void direct_all_gather(LaneContext& context) {
  const int rank = context.request.rank;
  const int world = context.request.world;
  for (int ahead = 1; ahead < world; ++ahead) {
    context.steps.send(shifted(rank, ahead, world), context.input());
  }
  context.steps.copy(context.input(), context.data(rank));
  for (int ahead = 1; ahead < world; ++ahead) {
    const int peer = shifted(rank, -ahead, world);
    context.steps.recv(peer, context.data(peer));
  }
}

namespace {

// Where the part for (or from) `peer` lies: after those of the ranks before it.
Region part_of(Buffer buffer, std::span<const uint64_t> counts, const PlanRequest& request,
               int peer) {
  const auto index = static_cast<std::size_t>(peer);
  if (counts.empty()) {
    const uint64_t bytes = request.count * request.element_size;
    return {buffer, index * bytes, bytes};
  }
  const uint64_t before = std::accumulate(counts.begin(), counts.begin() + peer, uint64_t{0});
  return {buffer, before * request.element_size, counts[index] * request.element_size};
}

}  // namespace

// At turn t rank r sends to r + t and hears from r - t, so that no rank is met by all at once.
// Small parts all leave before the first is waited for: 1 hop. Of large ones a few turns are under
// way together, lest everyone's bytes stand in line everywhere: 1 hop for small worlds, (n - 1)/8
// for large ones. How far ahead is a rank's own affair: each channel sees one frame either way.
// Bytes: what is given to the others, each once.
// An empty part travels as an empty frame: sizes are checked per frame, and a rank that expects
// something must not wait for ever.
void direct_all_to_all(LaneContext& context) {
  const PlanRequest& request = context.request;
  const auto sent = [&](int peer) {
    return context.share_of(part_of(Buffer::kInput, request.send_counts, request, peer));
  };
  const auto received = [&](int peer) {
    return context.share_of(part_of(Buffer::kData, request.recv_counts, request, peer));
  };
  uint64_t sent_bytes = 0;
  for (int peer = 0; peer < request.world; ++peer) sent_bytes += sent(peer).size_bytes;
  const int turns_ahead = sent_bytes <= kPromptBytes ? request.world - 1 : kTurnsAhead;
  context.steps.copy(sent(request.rank), received(request.rank));
  for (int turn = 1; turn < request.world + turns_ahead; ++turn) {
    if (turn < request.world) {
      const int to = shifted(request.rank, turn, request.world);
      const Region out = sent(to);
      out.size_bytes > 0 ? context.steps.send(to, out) : context.steps.send_empty(to);
    }
    if (turn > turns_ahead) {
      const int from = shifted(request.rank, turns_ahead - turn, request.world);
      const Region in = received(from);
      in.size_bytes > 0 ? context.steps.recv(from, in) : context.steps.recv_empty(from);
    }
  }
}

}  // namespace fastgpu
