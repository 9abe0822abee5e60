// The hosts of a request, as two-level algorithms see them from one rank.
//
// Threading: pure functions, any thread.
#pragma once

#include <vector>

#include "plan/build.h"
#include "plan/builders/direct.h"

namespace fastgpu {

// With L ranks on the smallest host there are L shards, and local rank j < L owns shard j on its
// host. Other ranks own nothing.
struct Hosts {
  int host = 0;                   // this rank's host
  std::vector<int> local_ranks;   // the ranks of this host
  int local_index = 0;            // this rank is local_ranks[local_index]
  int shards = 0;                 // L
  std::vector<int> counterparts;  // by host: the rank with the same local index; unset if the host
                                  // has none, which is so only if local_index >= shards

  RankSubset locals() const { return {local_ranks, local_index}; }
  bool owns_shard() const { return local_index < shards; }
};

// By request.host_of. Raises InvalidArgumentError if hosts are not numbered without gaps.
Hosts find_hosts(const PlanRequest& request);
Hosts one_rank_per_host(const PlanRequest& request);

}  // namespace fastgpu
