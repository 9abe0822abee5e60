#include "plan/builders/hosts.h"

#include <algorithm>

#include "base/error.h"

namespace fastgpu {
namespace {

[[noreturn]] void reject_host_of() {
  raise(ErrorKind::kInvalidArgument, "host_of: hosts must be numbered from 0 without gaps");
}

int host_of(const PlanRequest& request, int rank) {
  return request.host_of.empty() ? 0 : request.host_of[static_cast<std::size_t>(rank)];
}

}  // namespace

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

Hosts one_rank_per_host(const PlanRequest& request) {
  return {.host = request.rank,
          .local_ranks = {request.rank},
          .shards = 1,
          .counterparts = all_ranks(request.world)};
}

}  // namespace fastgpu
