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
#include "plan/choose.h"
#include "plan/cost.h"
#include "plan/schedule.h"

namespace fastgpu {

struct Plan {
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
};

class Planner {
 public:
  static constexpr std::size_t kMaxPlans = 4096;  // then the cache starts afresh

  Planner(int rank, int world, std::vector<int> host_of, const Options& options);

  // New constants make new choices; every rank must set them between the same two calls.
  void set_constants(const Constants& constants);
  int lanes() const noexcept { return lanes_; }
  Plan plan(const PlanQuestion& question);

 private:
  struct Key {
    Collective collective;
    uint32_t element_size;
    int root;
    uint64_t count;
    auto operator<=>(const Key&) const = default;
  };
  Plan make(const PlanQuestion& question) const;

  const int rank_;
  const int world_;
  const std::vector<int> host_of_;
  const Options options_;
  const int lanes_;
  mutable std::mutex mutex_;  // guards what follows
  Constants constants_;
  std::map<Key, Plan> plans_;
};

}  // namespace fastgpu
