// The planner: from a call to a schedule, chosen, built once and kept. Every rank asks the same and
// so decides the same.
// Thread safety: all calls, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "comm/options.h"
#include "comm/topology.h"
#include "plan/build.h"
#include "plan/choose.h"
#include "plan/cost.h"

namespace fastgpu {

// What plans are kept by: all that they follow from, but for counts that differ by rank.
struct PlanKey {
  Collective collective = Collective::kBarrier;
  uint32_t element_size = 1;
  int root = 0;
  uint64_t count = 0;
  auto operator<=>(const PlanKey&) const = default;
};

struct Plan {
  PlanKey key;
  bool even = true;  // not made for counts that differ by rank
  Choice choice;
  std::shared_ptr<const Schedule> schedule;
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
};

struct PlanQuestion {
  Collective collective = Collective::kBarrier;
  uint64_t count = 0;  // as in PlanRequest
  uint32_t element_size = 1;
  int root = 0;
  std::span<const uint64_t> send_counts;
  std::span<const uint64_t> recv_counts;

  PlanKey key() const { return {collective, element_size, root, count}; }
  bool answered_by(const Plan& plan) const {
    return plan.even && send_counts.empty() && plan.key == key();
  }
};

class Planner {
 public:
  static constexpr std::size_t kMaxPlans = 4096;  // then the cache starts afresh

  Planner(int rank, const Topology& topology, const Options& options);

  // New constants make new choices; every rank must set them between the same two calls.
  void set_constants(const Constants& constants);
  int lanes() const noexcept { return lanes_; }
  std::shared_ptr<const Plan> plan(const PlanQuestion& question);

 private:
  std::shared_ptr<const Plan> make(const PlanQuestion& question) const;

  const int rank_;
  const int world_;
  const std::vector<int> host_of_;
  const int most_per_machine_;
  const Options options_;
  const int lanes_;
  mutable std::mutex mutex_;  // guards what follows
  Constants constants_;
  std::map<PlanKey, std::shared_ptr<const Plan>> plans_;
};

}  // namespace fastgpu
