#include "plan/builders/hierarchical.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "base/error.h"
#include "plan/builders/direct.h"
#include "plan/builders/ring.h"

namespace fastgpu {
namespace {

// The hosts, seen from one rank.
struct Hosts {
  int host = 0;                   // this rank's host
  std::vector<int> local_ranks;   // the ranks of this host
  int local_index = 0;            // this rank is local_ranks[local_index]
  int shards = 0;                 // the number of ranks on the smallest host
  std::vector<int> counterparts;  // by host: the rank with the same local index; unset if the host
                                  // has none, which is so only if local_index >= shards
};

[[noreturn]] void reject_host_of() {
  raise(ErrorKind::kInvalidArgument, "host_of: hosts must be numbered from 0 without gaps");
}

int host_of(const PlanRequest& request, int rank) {
  return request.host_of.empty() ? 0 : request.host_of[static_cast<std::size_t>(rank)];
}

Hosts find_hosts(const PlanRequest& request) {
  Hosts hosts;
  hosts.host = host_of(request, request.rank);
  std::vector<int> sizes;
  for (int rank = 0; rank < request.world; ++rank) {
    const int host = host_of(request, rank);
    if (host < 0 || host >= request.world) reject_host_of();
    if (static_cast<std::size_t>(host) >= sizes.size()) {
      sizes.resize(static_cast<std::size_t>(host) + 1);
    }
    if (rank == request.rank) hosts.local_index = static_cast<int>(hosts.local_ranks.size());
    if (host == hosts.host) hosts.local_ranks.push_back(rank);
    ++sizes[static_cast<std::size_t>(host)];
  }
  hosts.shards = *std::min_element(sizes.begin(), sizes.end());
  if (hosts.shards == 0) reject_host_of();
  hosts.counterparts.resize(sizes.size());
  std::vector<int> seen(sizes.size());
  for (int rank = 0; rank < request.world; ++rank) {
    const auto host = static_cast<std::size_t>(host_of(request, rank));
    if (seen[host]++ == hosts.local_index) hosts.counterparts[host] = rank;
  }
  return hosts;
}

}  // namespace

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
  const RankSubset subset{hosts.local_ranks, hosts.local_index};
  const Partition shards = context.split(context.data(), hosts.shards);
  const Region own_copy = scratch_for_own_shard(subset, shards, context.scratch);
  reduce_scatter_shards(context.steps, subset, shards, own_copy);
  if (hosts.local_index < hosts.shards) {
    const Ring ring = ring_of(hosts.counterparts, hosts.host, context.lane);
    const Region mine = shards[hosts.local_index];
    ring_all_reduce(context.steps, ring, context.split(mine, ring.size));
  }
  all_gather_shards(context.steps, subset, shards);
}

}  // namespace fastgpu
