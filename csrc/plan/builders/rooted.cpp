#include "plan/builders/rooted.h"

#include <algorithm>
#include <array>

#include "plan/builders/direct.h"

namespace fastgpu {
namespace {

constexpr int kStagedChunks = 2;  // the root writes one while the peers read the other

// Visits all ranks but the root, beginning with the rank after it.
template <typename Visit>
void for_each_peer_of_root(const PlanRequest& request, Visit visit) {
  for (int ahead = 1; ahead < request.world; ++ahead) {
    visit(shifted(request.root, ahead, request.world));
  }
}

// The steps of the root of a staged broadcast.
//
//        data --> scratch --> 1, 2, 3, ...
//
// The root copies chunk after chunk into scratch that the peers can read in place, so the data is
// copied n times in all. Through channels it would be copied 2(n - 1) times. Every peer confirms a
// chunk with an empty frame; the root replaces the chunk when all have confirmed.
void staged_broadcast(LaneContext& context, const ChunkedRegion& chunks) {
  const PlanRequest& request = context.request;
  context.scratch.set_shared();
  std::array<Region, kStagedChunks> slots{};
  for (int64_t n = 0; n < std::min<int64_t>(kStagedChunks, chunks.count()); ++n) {
    slots[static_cast<std::size_t>(n)] = context.scratch.allocate(chunks[n].size_bytes);
  }
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    Region slot = slots[static_cast<std::size_t>(chunk % kStagedChunks)];
    slot.size_bytes = chunks[chunk].size_bytes;
    if (chunk >= kStagedChunks) {
      for_each_peer_of_root(request, [&](int peer) { context.steps.recv_empty(peer); });
    }
    context.steps.copy(chunks[chunk], slot);
    for_each_peer_of_root(request, [&](int peer) { context.steps.send(peer, slot); });
  }
}

}  // namespace

//        root --> 1          1 hop. The root sends n - 1 frames, (n - 1) * S bytes.
//          | \--> 2
//          \----> 3          A staged broadcast: 1 hop per chunk; see staged_broadcast.
void direct_broadcast(LaneContext& context) {
  const PlanRequest& request = context.request;
  const Region data = context.data();
  if (request.shots == 2) {
    const ChunkedRegion chunks(data, request.chunk_bytes, request.element_size);
    if (request.rank == request.root) return staged_broadcast(context, chunks);
    for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
      context.steps.recv(request.root, chunks[chunk]);
      if (chunk + kStagedChunks < chunks.count()) context.steps.send_empty(request.root);
    }
    return;
  }
  if (request.rank != request.root) return context.steps.recv(request.root, data);
  // Data longer than a frame goes to all peers frame by frame, so that all receive at once.
  const ChunkedRegion frames(data, kMaxFrameBytes, request.element_size);
  for (int64_t frame = 0; frame < frames.count(); ++frame) {
    for_each_peer_of_root(request, [&](int peer) { context.steps.send(peer, frames[frame]); });
  }
}

//        root --> 1, 2, 3, ...
//
// 1 hop. The root sends each rank its part, (n - 1)/n * S bytes; S is the size of the whole input.
void direct_scatter(LaneContext& context) {
  const PlanRequest& request = context.request;
  if (request.rank != request.root) return context.steps.recv(request.root, context.data());
  for_each_peer_of_root(request, [&](int peer) { context.steps.send(peer, context.input(peer)); });
  context.steps.copy(context.input(request.root), context.data());
}

//        1, 2, 3, ... --> root
//
// 1 hop. Every rank but the root sends its part, S/n bytes; S is the size of the whole output.
void direct_gather(LaneContext& context) {
  const PlanRequest& request = context.request;
  if (request.rank != request.root) return context.steps.send(request.root, context.input());
  context.steps.copy(context.input(), context.data(request.root));
  for_each_peer_of_root(request, [&](int peer) { context.steps.recv(peer, context.data(peer)); });
}

//        1, 2, 3, ... --> root: the sum
//
// 1 hop. Every rank but the root sends S bytes; the root adds in rank order. Its input may be the
// same memory as its data, and the contribution of rank 0 is stored into data first. So the root
// first copies its own contribution to scratch, unless it is rank 0.
void direct_reduce(LaneContext& context) {
  const PlanRequest& request = context.request;
  if (request.rank != request.root) return context.steps.send(request.root, context.input());
  Region own = context.input();
  if (request.root > 0) {
    own = context.scratch.allocate(own.size_bytes);
    context.steps.copy(context.input(), own);
  }
  const std::vector<int> ranks = all_ranks(request.world);
  reduce_in_order(context.steps, {ranks, request.rank}, own, context.data());
}

// Dissemination: after round k a rank has heard, directly or through others, from the
// 2^(k+1) - 1 ranks before it. Hensgen, Finkel and Manber, "Two algorithms for barrier
// synchronization" (1988).
//
//        round 0:  r --> r + 1     round 1:  r --> r + 2     round 2:  r --> r + 4  ...
//
// ceil(log2 n) rounds of one empty frame per rank. One lane is enough.
void barrier(LaneContext& context) {
  if (context.lane != 0) return;
  const int world = context.request.world;
  for (int distance = 1; distance < world; distance *= 2) {
    context.steps.send_empty(shifted(context.request.rank, distance, world));
    context.steps.recv_empty(shifted(context.request.rank, -distance, world));
  }
}

}  // namespace fastgpu
