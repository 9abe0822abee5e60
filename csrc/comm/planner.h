// The planner turns a call into a schedule: it chooses the algorithm, builds the
// schedule and caches it. All ranks ask for the same calls, and so have the same plans.
// Thread safety: all calls, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/call.h"
#include "comm/calls.h"
#include "comm/options.h"
#include "comm/topology.h"
#include "plan/build.h"
#include "plan/cost/choose.h"

namespace fastgpu {

struct Plan {
  // What it was made for. The planner keeps plans by shape, and those without counts only.
  CallShape shape;
  std::vector<uint64_t> send_counts;
  std::vector<uint64_t> recv_counts;
  Choice choice;
  std::shared_ptr<const Schedule> schedule;
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
};

// The inputs of choose() and build() for a call. The caller sets the rank and the hosts of the
// latter. Parts of an all_to_all are even.
ChooseRequest choose_request_of(const CallShape& shape, const Placement& placement,
                                const Options& options);
PlanRequest plan_request_of(const CallShape& shape, const Choice& choice, int world);

class Planner {
 public:
  static constexpr std::size_t kMaxPlans = 4096;  // then the cache starts afresh

  Planner(int rank, const Topology& topology, const Options& options);

  // New constants make new choices; every rank must set them between the same two calls.
  void set_constants(const Constants& constants);
  Constants constants() const;
  int lanes() const noexcept { return lanes_; }
  std::shared_ptr<const Plan> plan(const CollectiveCall& call);
  // What the call would cost. A message from any rank is priced as one from another host, if there
  // are several.
  double predict_us(const CollectiveCall& call);
  double predict_us(const MessageCall& call);

 private:
  std::shared_ptr<const Plan> make(const CollectiveCall& call);

  const int rank_;
  const int world_;
  const std::vector<int> host_of_;
  const Placement placement_;
  const Options options_;
  const int lanes_;
  mutable std::mutex mutex_;  // guards what follows
  CostModel costs_{Constants{}};
  std::map<CallShape, std::shared_ptr<const Plan>> plans_;
};

}  // namespace fastgpu
