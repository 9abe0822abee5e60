// Requests for the schedule tests, with uneven hosts and uneven counts of all_to_all.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/proof/verify.h"

namespace fastgpu::test {

// Sweeps run every kStride-th case. Under sanitizers and without optimisation, a proof takes many
// times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
inline constexpr uint64_t kStride = 7;
#else
inline constexpr uint64_t kStride = 1;
#endif

// By rank: hosts of 1, 2, 3, ... `most`, 1, 2, ... consecutive ranks. With `interleaved`, as many
// hosts, and consecutive ranks are on different ones.
inline std::vector<int> uneven_hosts(int world, int most, bool interleaved) {
  std::vector<int> hosts;
  for (int host = 0; static_cast<int>(hosts.size()) < world; ++host) {
    const int size = host % most + 1;
    for (int rank = 0; rank < size && static_cast<int>(hosts.size()) < world; ++rank) {
      hosts.push_back(host);
    }
  }
  if (!interleaved || hosts.empty()) return hosts;
  const int count = hosts.back() + 1;
  for (int rank = 0; rank < world; ++rank) hosts[static_cast<std::size_t>(rank)] = rank % count;
  return hosts;
}

// The elements from rank i to rank j at i * world + j. Many are 0.
inline std::vector<uint64_t> uneven_counts(int world, uint64_t most) {
  std::vector<uint64_t> counts;
  for (uint64_t from = 0; from < static_cast<uint64_t>(world); ++from) {
    for (uint64_t to = 0; to < static_cast<uint64_t>(world); ++to) {
      const uint64_t mixed = (from * 7 + to * 13 + from * to) % 11;
      counts.push_back(mixed < 4 ? 0 : mixed * most / 10);
    }
  }
  return counts;
}

inline PlanRequest request_of(Collective collective, Algorithm algorithm, int world,
                              uint64_t count) {
  PlanRequest request;
  request.collective = collective;
  request.algorithm = algorithm;
  request.world = world;
  request.count = count;
  return request;
}

// Visits every collective with each of its algorithms.
template <typename Visit>
void for_each_builder(Visit visit) {
  for (int index = 0; index < kCollectiveCount; ++index) {
    const auto collective = static_cast<Collective>(index);
    for (const Algorithm algorithm : algorithms_of(collective)) visit(collective, algorithm);
  }
}

}  // namespace fastgpu::test
