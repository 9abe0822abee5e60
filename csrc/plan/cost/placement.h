// How the ranks of a world lie on hosts and share cores, as far as prices need to know.
//
// Ownership and threading: plain values, pure functions, any thread.
#pragma once

#include <algorithm>
#include <compare>
#include <span>
#include <vector>

#include "base/wait_policy.h"
#include "plan/cost/constants.h"

namespace fastgpu {

// A host is a set of ranks that share memory, a machine a set of ranks that share cores. Hosts are
// taken to hold consecutive ranks.
struct Placement {
  int world = 1;
  int hosts = 1;
  int most_per_host = 1;
  int fewest_per_host = 1;
  int most_per_machine = 1;

  auto operator<=>(const Placement&) const = default;
};

// `host_of` as in PlanRequest: the host index of every rank, dense; empty: one host. Every host is
// taken to be a machine of its own.
Placement placement_of(int world, std::span<const int> host_of);

// The inverse: the host index of every rank. Empty for a single host.
std::vector<int> hosts_of(const Placement& placement);

// The ranks of a machine that share a core, at least 1.
inline double ranks_per_core(const Placement& placement, const Constants& constants) {
  const double ranks = placement.most_per_machine;
  return constants.cores_per_host == 0 ? 1 : std::max(1.0, ranks / constants.cores_per_host);
}

// More ranks than cores. Waiting ranks then hold up working ones: a call takes one lane and few
// rounds, and its waiters do not spin. 0 cores: unknown, taken as enough.
inline bool oversubscribed(const Placement& placement, const Constants& constants) {
  return oversubscribed(placement.most_per_machine, constants.cores_per_host);
}

}  // namespace fastgpu
