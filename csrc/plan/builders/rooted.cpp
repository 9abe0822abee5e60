#include "plan/builders/rooted.h"

#include <algorithm>
#include <array>

#include "plan/builders/direct.h"

namespace fastgpu {
namespace {

constexpr int kLaidOutChunks = 2;  // one is read while the next one is laid out

// The ranks other than the root, from the one after it on.
template <typename Visit>
void for_each_other(const PlanRequest& request, Visit visit) {
  for (int ahead = 1; ahead < request.world; ++ahead) {
    visit(shifted(request.root, ahead, request.world));
  }
}

}  // namespace

// In all four the frames go one way; the handshake gives each pair an empty one the other way.
//
//        root --> 1          1 hop of n - 1 frames at the root; the root sends (n - 1) * S bytes
//          | \--> 2          (broadcast), or its whole input less its own part (scatter); reduce
//          \----> 3          and gather are the same backwards
//
// A large broadcast inside a host had better be copied n times than 2(n - 1) times, into a channel
// and out of it for everyone. The root lays it out, chunk by chunk, in scratch of which the others
// can read; each says that it has, before the place of a chunk gets the next but one.
//
//        data --> scratch ---> 1, 2, 3, ...
void direct_broadcast(LaneContext& context) {
  const PlanRequest& request = context.request;
  const bool is_staged_broadcast = request.shots == 2;
  const Region data = context.data();
  const Chunks chunks(data, is_staged_broadcast ? request.chunk_bytes : data.size_bytes,
                      request.element_size);
  const int64_t ahead = is_staged_broadcast ? kLaidOutChunks : chunks.count();
  if (request.rank != request.root) {
    for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
      context.steps.recv(request.root, chunks[chunk]);
      if (chunk + ahead < chunks.count()) context.steps.send_empty(request.root);
    }
    return;
  }
  std::array<Region, kLaidOutChunks> places{};
  if (is_staged_broadcast) {
    context.scratch.share();
    for (int64_t n = 0; n < std::min<int64_t>(kLaidOutChunks, chunks.count()); ++n) {
      places[static_cast<std::size_t>(n)] = context.scratch.take(chunks[n].size_bytes);
    }
  }
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    Region source = chunks[chunk];
    if (is_staged_broadcast) {
      Region place = places[static_cast<std::size_t>(chunk % kLaidOutChunks)];
      place.size_bytes = source.size_bytes;
      if (chunk >= ahead) {
        for_each_other(request, [&](int peer) { context.steps.recv_empty(peer); });
      }
      context.steps.copy(source, place);
      source = place;
    }
    for_each_other(request, [&](int peer) { context.steps.send(peer, source); });
  }
}

void direct_scatter(LaneContext& context) {
  const PlanRequest& request = context.request;
  if (request.rank != request.root) return context.steps.recv(request.root, context.data());
  for_each_other(request, [&](int peer) { context.steps.send(peer, context.input(peer)); });
  context.steps.copy(context.input(request.root), context.data());
}

void direct_gather(LaneContext& context) {
  const PlanRequest& request = context.request;
  if (request.rank != request.root) return context.steps.send(request.root, context.input());
  context.steps.copy(context.input(), context.data(request.root));
  for_each_other(request, [&](int peer) { context.steps.recv(peer, context.data(peer)); });
}

// The root sums in rank order. Its input may be the same memory as its data, which the first
// rank's contribution is stored over: a copy waits for its turn in the wire buffer.
void direct_reduce(LaneContext& context) {
  const PlanRequest& request = context.request;
  if (request.rank != request.root) return context.steps.send(request.root, context.input());
  Region own = context.input();
  if (request.root > 0) {
    own = context.scratch.take(own.size_bytes);
    context.steps.copy(context.input(), own);
  }
  const std::vector<int> ranks = all_ranks(request.world);
  reduce_in_order(context.steps, {ranks, request.rank}, own, context.data());
}

// Dissemination: after round k a rank has heard of the 2^(k+1) - 1 ranks before it. Hensgen,
// Finkel and Manber, "Two algorithms for barrier synchronization" (1988).
//
//        round 0:  r --> r + 1     round 1:  r --> r + 2     round 2:  r --> r + 4  ...
//
// ceil(log2 n) rounds of one empty frame each way, and the handshake's; no bytes. One lane does.
void barrier(LaneContext& context) {
  if (context.lane != 0) return;
  const int world = context.request.world;
  for (int distance = 1; distance < world; distance *= 2) {
    context.steps.send_empty(shifted(context.request.rank, distance, world));
    context.steps.recv_empty(shifted(context.request.rank, -distance, world));
  }
}

}  // namespace fastgpu
