#include "plan/builders/halving.h"

#include <bit>

namespace fastgpu {
namespace {

// The ranks that halve and double: the largest power of two of them, numbered as members. If n is
// no power of two, ranks 2i and 2i + 1 form a pair for the first `pairs` members. Rank 2i takes
// part as member i, also on behalf of rank 2i + 1.
struct Members {
  int count;
  int pairs;

  explicit Members(int world)
      : count(static_cast<int>(std::bit_floor(static_cast<unsigned>(world)))),
        pairs(world - count) {}
  bool paired(int rank) const { return rank < 2 * pairs; }
  int member_of(int rank) const { return paired(rank) ? rank / 2 : rank - pairs; }
  int rank_of(int member) const { return member < pairs ? 2 * member : member + pairs; }
};

// The all-reduce of one block among the members.
void halve_and_double(LaneContext& context, const Members& members, const Region& block) {
  LaneBuilder& steps = context.steps;
  const Partition shards = context.split(block, members.count);
  const int me = members.member_of(context.request.rank);
  int first = 0;  // this member's window: `width` shards from `first` on
  int width = members.count;
  for (int distance = 1; distance < members.count; distance *= 2) {
    const int partner = members.rank_of(me ^ distance);
    width /= 2;
    const int upper = first + width;
    const bool keeps_upper = (me & distance) != 0;
    const int given = keeps_upper ? first : upper;
    if (keeps_upper) first = upper;
    steps.send(partner, shards.range(given, given + width));
    steps.recv_reduce(partner, shards.range(first, first + width));
  }
  for (int distance = members.count / 2; distance > 0; distance /= 2) {
    const int partner = members.rank_of(me ^ distance);
    const bool holds_upper = (me & distance) != 0;
    const int missing = holds_upper ? first - width : first + width;
    steps.send(partner, shards.range(first, first + width));
    steps.recv(partner, shards.range(missing, missing + width));
    if (holds_upper) first = missing;
    width *= 2;
  }
}

// The steps of the second rank of a pair. It sends the next block before it waits for a sum.
void reduce_through(LaneBuilder& steps, int peer, const ChunkedRegion& blocks) {
  steps.send(peer, blocks[0]);
  for (int64_t block = 0; block < blocks.count(); ++block) {
    if (block + 1 < blocks.count()) steps.send(peer, blocks[block + 1]);
    steps.recv(peer, blocks[block]);
  }
}

}  // namespace

// Rabenseifner; see Thakur, Rabenseifner and Gropp, "Optimization of collective communication
// operations in MPICH" (2005).
//
//        distance 1        distance 2        Halving: partners at distance d share a window of the
//        0 --- 1           0 ------- 2       data. They swap halves and add; bit d of a member's
//        2 --- 3           1 ------- 3       number says which half it keeps. Doubling: the same
//        halves of S       quarters of S     exchanges in reverse order distribute the sums.
//
// For n = 2^k: 2k hops, and every rank sends 2(n - 1)/n * S bytes. The large halves move between
// neighbours. For any other n: 2 hops more, in which each pair moves S bytes in either direction.
// Order: mine + partner's, nearest partner first, the values of a pair before all others. Each
// shard is reduced on one rank, so all ranks get the same bits.
// No write meets a pending send: the sum of a shard contains this rank's part, so the partner has
// received this rank's send before the sum arrives.
void halving_all_reduce(LaneContext& context) {
  const int rank = context.request.rank;
  const Members members(context.request.world);
  const ChunkedRegion blocks = context.blocks();
  if (members.paired(rank) && rank % 2 == 1) {
    return reduce_through(context.steps, rank - 1, blocks);
  }
  for (int64_t block = 0; block < blocks.count(); ++block) {
    if (members.paired(rank)) context.steps.recv_reduce(rank + 1, blocks[block]);
    halve_and_double(context, members, blocks[block]);
    if (members.paired(rank)) context.steps.send(rank + 1, blocks[block]);
  }
}

}  // namespace fastgpu
