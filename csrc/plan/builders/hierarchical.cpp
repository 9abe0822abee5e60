#include "plan/builders/hierarchical.h"

#include "plan/builders/direct.h"
#include "plan/builders/encoded.h"
#include "plan/builders/hosts.h"
#include "plan/builders/ring.h"

namespace fastgpu {

// Reduce-scatter inside each host, ring all-reduce of each shard between hosts, all-gather inside
// each host. If the smallest host has L ranks, there are L shards, and local rank j < L owns shard
// j on its host.
//
//        host A   0   1   2        shard 0: ring 0 -- 3
//                 |   |            shard 1: ring 1 -- 4
//        host B   3   4            rank 2 owns no shard; it gives its data and receives the sum
//
// For H hosts of m ranks each: 2 + 2(H - 1) hops. A rank sends 2(m - 1)/m * S bytes inside its host
// and 2(H - 1)/H * S/m between hosts. A host's network interface carries 2(H - 1)/H * S.
// Order: the ranks of a host in rank order, then the hosts in ring order from the shard's owner on.
void hierarchical_all_reduce(LaneContext& context) {
  const Hosts hosts = find_hosts(context.request);
  if (context.request.codec != Codec::kNone) {
    const bool one_host = hosts.counterparts.size() == 1;
    return encoded_all_reduce(context, one_host ? one_rank_per_host(context.request) : hosts);
  }
  const RankSubset subset = hosts.locals();
  const Partition shards = context.split(context.data(), hosts.shards);
  const Region own_copy = scratch_for_own_shard(subset, shards, context.scratch);
  reduce_scatter_shards(context.steps, subset, shards, own_copy);
  if (hosts.owns_shard()) {
    const Ring ring = ring_of(hosts.counterparts, hosts.host, context.lane);
    const Region mine = shards[hosts.local_index];
    ring_all_reduce(context.steps, ring, context.split(mine, ring.size));
  }
  all_gather_shards(context.steps, subset, shards);
}

}  // namespace fastgpu
