#include "plan/builders/halving.h"

#include <bit>

namespace fastgpu {
namespace {

// The ranks that exchange: a power of two of them, the core. Each of the first `extra` core
// members is a pair of ranks, 2i and 2i + 1, of which the second one only hands its part over.
struct Core {
  int size;
  int extra;

  explicit Core(int world)
      : size(static_cast<int>(std::bit_floor(static_cast<unsigned>(world)))), extra(world - size) {}
  bool paired(int rank) const { return rank < 2 * extra; }
  int member_of(int rank) const { return paired(rank) ? rank / 2 : rank - extra; }
  int rank_of(int member) const { return member < extra ? 2 * member : member + extra; }
};

// The core's exchange of one block, `me` a member of it.
void exchange(LaneContext& context, const Core& core, int me, const Region& block) {
  LaneBuilder& steps = context.steps;
  const Partition shards = context.split(block, core.size);
  int first = 0;  // my window: `width` shards from here on
  int width = core.size;
  for (int distance = 1; distance < core.size; distance *= 2) {
    const int partner = core.rank_of(me ^ distance);
    width /= 2;
    const int upper = first + width;
    const bool keeps_upper = (me & distance) != 0;
    const int given = keeps_upper ? first : upper;
    if (keeps_upper) first = upper;
    steps.send(partner, shards.range(given, given + width));
    steps.recv_reduce(partner, shards.range(first, first + width));
  }
  for (int distance = core.size / 2; distance > 0; distance /= 2) {
    const int partner = core.rank_of(me ^ distance);
    const bool holds_upper = (me & distance) != 0;
    const int missing = holds_upper ? first - width : first + width;
    steps.send(partner, shards.range(first, first + width));
    steps.recv(partner, shards.range(missing, missing + width));
    if (holds_upper) first = missing;
    width *= 2;
  }
}

// The second of a pair hands each block over, the next one before it waits for a sum.
void hand_over(LaneBuilder& steps, int peer, const Chunks& blocks) {
  steps.send(peer, blocks[0]);
  for (int64_t block = 0; block < blocks.count(); ++block) {
    if (block + 1 < blocks.count()) steps.send(peer, blocks[block + 1]);
    steps.recv(peer, blocks[block]);
  }
}

}  // namespace

// Rabenseifner; see Thakur, Rabenseifner and Gropp, "Optimization of collective communication
// operations in MPICH" (2005). n = 2^k + extra.
//
//        distance 1        distance 2        At distance d partners share a window; each keeps the
//        0 --- 1           0 ------- 2       half that bit d of its number names and gives the
//        2 --- 3           1 ------- 3       other half away (halving, k hops). Then backwards:
//        halves of S       quarters of S     each gives what it holds (doubling, k hops).
//
// 2 log2 n hops, 2(n - 1)/n * S bytes sent by every rank; neighbours exchange the large halves.
// With extra > 0 there are 2 hops more, in which a pair moves S bytes each way.
// Order: mine + partner's, by distance; each shard has one owner in the end, who gives it to all.
// Each block by itself. A half that I gave away is stored over only with the sum that it is in.
void halving_all_reduce(LaneContext& context) {
  const int rank = context.request.rank;
  const Core core(context.request.world);
  const Chunks blocks = context.blocks();
  if (core.paired(rank) && rank % 2 == 1) return hand_over(context.steps, rank - 1, blocks);
  for (int64_t block = 0; block < blocks.count(); ++block) {
    if (core.paired(rank)) context.steps.recv_reduce(rank + 1, blocks[block]);
    exchange(context, core, core.member_of(rank), blocks[block]);
    if (core.paired(rank)) context.steps.send(rank + 1, blocks[block]);
  }
}

}  // namespace fastgpu
