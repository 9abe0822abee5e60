#include "plan/builders/ring.h"

#include <array>

namespace fastgpu {

Ring ring_of(std::span<const int> ranks, int index, int lane) {
  Ring ring{static_cast<int>(ranks.size()), index, lane % 2 == 0 ? 1 : -1};
  ring.previous = ranks[static_cast<std::size_t>(ring.behind(1))];
  ring.next = ranks[static_cast<std::size_t>(ring.behind(-1))];
  return ring;
}

Ring ring_of_world(const PlanRequest& request, int lane) {
  Ring ring{request.world, request.rank, lane % 2 == 0 ? 1 : -1};
  ring.previous = ring.behind(1);
  ring.next = ring.behind(-1);
  return ring;
}

// Patarasu and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009).
//
//        shard j, n = 4:    j --> j+1 --> j+2 --> j+3    reduce-scatter: each rank adds its part
//                           j+3 --> j --> j+1 --> j+2    all-gather: the sum goes round
//
// 2(n - 1) hops of one frame per rank. Every rank sends 2(n - 1)/n * S bytes.
// Order: a rank adds its own part on the left, j+3 + (j+2 + (j+1 + j)).
// No write meets a pending send: the sum of a shard contains this rank's part, so this rank's send
// of the shard was received before the sum arrives.
void ring_all_reduce(LaneBuilder& steps, const Ring& ring, const Partition& shards) {
  for (int hop = 0; hop < ring.size - 1; ++hop) {
    steps.send(ring.next, shards[ring.behind(hop)]);
    steps.recv_reduce(ring.previous, shards[ring.behind(hop + 1)]);
  }
  for (int hop = 0; hop < ring.size - 1; ++hop) {
    steps.send(ring.next, shards[ring.behind(hop - 1)]);
    steps.recv(ring.previous, shards[ring.behind(hop)]);
  }
}

void ring_all_reduce(LaneContext& context) {
  const Ring ring = ring_of_world(context.request, context.lane);
  const ChunkedRegion blocks = context.blocks();
  for (int64_t block = 0; block < blocks.count(); ++block) {
    ring_all_reduce(context.steps, ring, context.split(blocks[block], context.request.world));
  }
}

// The first half of the all-reduce, shifted by one rank so that part j ends at rank j.
//
//        input part j:      j+1 --> j+2 --> ... --> j - 1 --> j: data
//
// n - 1 hops. Every rank sends (n - 1)/n * S bytes; S is the size of the whole input.
// The input must not change, so partial sums use two slots in scratch. A slot is written again when
// `next` has confirmed, by an empty frame, that it took the last sum from the slot.
void ring_reduce_scatter(LaneContext& context) {
  LaneBuilder& steps = context.steps;
  const Ring ring = ring_of_world(context.request, context.lane);
  const uint64_t size_bytes = context.data().size_bytes;
  const int last = ring.size - 2;  // the last hop
  std::array<Region, 2> slots{};
  for (int slot = 0; slot < std::min(last, 2); ++slot) {
    slots[static_cast<std::size_t>(slot)] = context.scratch.allocate(size_bytes);
  }
  if (size_bytes == 0) return;
  steps.send(ring.next, context.input(ring.behind(1)));
  for (int hop = 0; hop <= last; ++hop) {
    const Region target = hop == last ? context.data() : slots[static_cast<std::size_t>(hop % 2)];
    if (hop >= 2 && hop < last) steps.recv_empty(ring.next);
    steps.copy(context.input(ring.behind(hop + 2)), target);
    steps.recv_reduce(ring.previous, target);
    if (hop >= 1 && hop < last - 1) steps.send_empty(ring.previous);
    if (hop < last) steps.send(ring.next, target);
  }
}

// The second half of the all-reduce.
//
//        part j:            j --> j+1 --> ... --> j - 1
//
// n - 1 hops. Every rank sends (n - 1)/n * S bytes; S is the size of the whole output.
void ring_all_gather(LaneContext& context) {
  const Ring ring = ring_of_world(context.request, context.lane);
  if (ring.size > 1) context.steps.send(ring.next, context.input());
  context.steps.copy(context.input(), context.data(ring.index));
  for (int hop = 0; hop < ring.size - 1; ++hop) {
    if (hop > 0) context.steps.send(ring.next, context.data(ring.behind(hop)));
    context.steps.recv(ring.previous, context.data(ring.behind(hop + 1)));
  }
}

// Scatter from the root, then all-gather round the ring up to the rank before the root.
// Van de Geijn; see Thakur, Rabenseifner and Gropp, "Optimization of collective communication
// operations in MPICH" (2005).
//
//        root --> shard j to rank j          shard j:  j --> j+1 --> ... --> rank before the root
//
// n - 1 hops. The root sends 2(n - 1)/n * S bytes, another rank at most (n - 1)/n * S.
void ring_broadcast(LaneContext& context) {
  const Ring ring = ring_of_world(context.request, context.lane);
  const int root = context.request.root;
  const Partition shards = context.split(context.data(), ring.size);
  if (ring.index == root) {
    for (int ahead = 1; ahead < ring.size; ++ahead) {
      const int peer = ring.behind(-ahead);
      context.steps.send(peer, shards[peer]);
    }
  } else {
    context.steps.recv(root, shards[ring.index]);
  }
  for (int hop = 0; hop < ring.size - 1; ++hop) {
    if (ring.next != root) context.steps.send(ring.next, shards[ring.behind(hop)]);
    if (ring.index != root) context.steps.recv(ring.previous, shards[ring.behind(hop + 1)]);
  }
}

}  // namespace fastgpu
