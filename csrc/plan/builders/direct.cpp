#include "plan/builders/direct.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "plan/builders/encoded.h"
#include "plan/builders/hosts.h"

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

void reduce_scatter_shards(LaneBuilder& steps, const RankSubset& subset, const Partition& shards,
                           const Region& own_copy) {
  for (int ahead = 1; ahead < subset.size(); ++ahead) {
    const int peer = shifted(subset.index, ahead, subset.size());
    if (peer < shards.parts()) {
      steps.send(subset.ranks[static_cast<std::size_t>(peer)], shards[peer]);
    }
  }
  if (subset.index >= shards.parts()) return;
  const Region mine = shards[subset.index];
  Region own = mine;
  if (subset.index > 0) {  // the first member's contribution replaces this rank's own
    own = {own_copy.buffer, own_copy.offset_bytes, mine.size_bytes};
    steps.copy(mine, own);
  }
  reduce_in_order(steps, subset, own, mine);
}

Region scratch_for_own_shard(const RankSubset& subset, const Partition& shards,
                             ScratchLayout& scratch) {
  if (subset.index == 0 || subset.index >= shards.parts()) return {};
  return scratch.allocate(shards[subset.index].size_bytes);
}

void all_gather_shards(LaneBuilder& steps, const RankSubset& subset, const Partition& shards) {
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

// Every rank sends its whole tensor to every other rank, and adds all contributions in rank order.
//
//        0 <--> 1        1 hop. Every rank sends (n - 1) * S bytes, and reads and adds n * S.
//        ^ \  / ^        Order: ((0 + 1) + 2) + ..., on every rank.
//        |  \/  |
//        v /  \ v        A rank sends from a copy in scratch, because the sum replaces the data
//        3 <--> 2        while slow peers still receive.
void one_shot(LaneContext& context, const RankSubset& subset) {
  const Region data = context.data();
  const Region scratch = context.scratch.allocate(data.size_bytes);
  context.steps.copy(data, scratch);
  for (int ahead = 1; ahead < subset.size(); ++ahead) {
    context.steps.send(shifted(subset.index, ahead, subset.size()), scratch);
  }
  reduce_in_order(context.steps, subset, subset.index == 0 ? data : scratch, data);
}

}  // namespace

// One-shot for small tensors (above), two-shot for large ones: rank j owns shard j. Every rank
// sends each owner its shard; the owner adds them in rank order and sends the sum to every rank.
// The shared-memory all-reduces of DeepSpeed and vLLM use the same two forms.
//
//        hop 1:  shard j of every rank --> j        hop 2:  j: the sum --> every rank
//
// 2 hops. Every rank sends 2(n - 1)/n * S bytes. It begins with the next rank and goes round, so
// that a rank is not addressed by all peers at once.
// No write meets a pending send: the sum of a shard contains this rank's part, so the owner has
// received this rank's send before the sum arrives.
void direct_all_reduce(LaneContext& context) {
  const PlanRequest& request = context.request;
  if (request.codec != Codec::kNone) return encoded_all_reduce(context, one_rank_per_host(request));
  const std::vector<int> ranks = all_ranks(request.world);
  const RankSubset subset{ranks, request.rank};
  const uint64_t bytes = request.count * request.element_size;
  if (takes_one_shot(bytes, request.world, request.shots)) return one_shot(context, subset);
  const ChunkedRegion blocks = context.blocks();
  const auto shards = [&](int64_t block) { return context.split(blocks[block], request.world); };
  // No block is larger than the first, so one scratch region serves all.
  const Region own_copy = scratch_for_own_shard(subset, shards(0), context.scratch);
  for (int64_t block = 0; block < blocks.count(); ++block) {
    reduce_scatter_shards(context.steps, subset, shards(block), own_copy);
    all_gather_shards(context.steps, subset, shards(block));
  }
}

// Every rank sends part j of its input to rank j, and rank j adds the parts in rank order.
//
//        part j of every rank --> j: the sum
//
// 1 hop, no scratch. Every rank sends (n - 1)/n * S bytes; S is the size of the whole input.
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

// Every rank sends its part to every other rank.
//
//        j: part j --> every rank
//
// 1 hop. Every rank sends (n - 1)/n * S bytes; S is the size of the whole output.
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

// The part for `peer` in input, or from `peer` in data. Parts are in rank order.
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

// In turn t, rank r sends to r + t and receives from r - t, so no rank is addressed by all peers at
// once.
//
//        turn t:   r - t --> r --> r + t
//
// A rank that sends little posts all sends first: 1 hop. With large parts, few turns are in flight,
// so that channels do not fill with frames that no rank receives yet: 1 hop up to kTurnsAhead + 2
// ranks, (n - 1)/(kTurnsAhead + 1) beyond. Ranks may decide differently, because each channel
// carries one frame in either case.
// A rank sends every part once, except its own. An empty part is sent as an empty frame: sizes are
// checked for every frame, and a rank that expects data must get an error instead of waiting
// forever.
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
  const int turns_ahead = sent_bytes <= kPostAllBytes ? request.world - 1 : kTurnsAhead;
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
