#include "plan/builders/hierarchical.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "base/error.h"
#include "plan/builders/direct.h"
#include "plan/builders/ring.h"

namespace fastgpu {
namespace {

struct Hosts {
  std::vector<int> locals;        // the ranks of my host
  int local_index = 0;            // mine among them
  int owners = 0;                 // ranks of the smallest host: so many shards there are
  std::vector<int> counterparts;  // the ranks with my local index, by host; for owners only
  int host = 0;
};

int host_of(const PlanRequest& request, int rank) {
  return request.host_of.empty() ? 0 : request.host_of[static_cast<std::size_t>(rank)];
}

Hosts find_hosts(const PlanRequest& request) {
  Hosts hosts;
  hosts.host = host_of(request, request.rank);
  std::vector<int> sizes;
  for (int rank = 0; rank < request.world; ++rank) {
    const int host = host_of(request, rank);
    if (host < 0 || host >= request.world) {
      raise(ErrorKind::kInvalidArgument, "host_of: hosts are numbered from 0, without gaps");
    }
    if (static_cast<std::size_t>(host) >= sizes.size()) {
      sizes.resize(static_cast<std::size_t>(host) + 1);
    }
    if (rank == request.rank) hosts.local_index = static_cast<int>(hosts.locals.size());
    if (host == hosts.host) hosts.locals.push_back(rank);
    ++sizes[static_cast<std::size_t>(host)];
  }
  hosts.owners = *std::min_element(sizes.begin(), sizes.end());
  if (hosts.owners == 0) {
    raise(ErrorKind::kInvalidArgument, "host_of: hosts are numbered from 0, without gaps");
  }
  hosts.counterparts.resize(sizes.size());
  std::vector<int> seen(sizes.size());
  for (int rank = 0; rank < request.world; ++rank) {
    const auto host = static_cast<std::size_t>(host_of(request, rank));
    if (seen[host]++ == hosts.local_index) hosts.counterparts[host] = rank;
  }
  return hosts;
}

}  // namespace

// Reduce-scatter inside each host, all-reduce of each shard between hosts, all-gather inside. The
// smallest host has L ranks: there are L shards, and local index j < L owns shard j on its host.
//
//        host A   0  1  2         shard 0: ring 0 -- 3      each rank --> its host's owners -->
//        ring
//                 |  |            shard 1: ring 1 -- 4      --> owners --> each rank of the host
//        host B   3  4            rank 2 owns nothing
//
// H hosts with m ranks each: 2 + 2(H - 1) hops; a rank sends 2(m - 1)/m * S bytes inside its host
// and 2(H - 1)/H * S/m between hosts: a host's link carries 2(H - 1)/H * S in all.
// Order: locals in rank order, then hosts in ring order from the shard's own on.
void hierarchical_all_reduce(LaneContext& context) {
  const Hosts hosts = find_hosts(context.request);
  const RankSubset subset{hosts.locals, hosts.local_index};
  const Partition shards = context.split(context.data(), hosts.owners);
  scatter_reduce(context.steps, subset, shards, keep_for(subset, shards, context.scratch));
  if (hosts.local_index < hosts.owners) {
    const Ring ring = ring_of(hosts.counterparts, hosts.host, context.lane);
    const Region mine = shards[hosts.local_index];
    ring_all_reduce(context.steps, ring, context.split(mine, ring.size));
  }
  share_shards(context.steps, subset, shards);
}

}  // namespace fastgpu
