#include "comm/planner.h"

#include <algorithm>
#include <numeric>

namespace fastgpu {

Planner::Planner(int rank, const Topology& topology, const Options& options)
    : rank_(rank),
      world_(static_cast<int>(topology.records.size())),
      host_of_(topology.host_of),
      most_per_machine_(topology.most_on_machine),
      options_(options),
      lanes_(options.lanes > 0 ? options.lanes : kMaxChosenLanes) {}

void Planner::set_constants(const Constants& constants) {
  const std::lock_guard lock(mutex_);
  constants_ = constants;
  plans_.clear();
}

std::shared_ptr<const Plan> Planner::plan(const PlanQuestion& question) {
  const std::lock_guard lock(mutex_);
  if (!question.send_counts.empty()) return make(question);
  const auto found = plans_.find(question.key());
  if (found != plans_.end()) return found->second;
  if (plans_.size() >= kMaxPlans) plans_.clear();
  return plans_.emplace(question.key(), make(question)).first->second;
}

std::shared_ptr<const Plan> Planner::make(const PlanQuestion& question) const {
  const auto ranks = static_cast<uint64_t>(world_);
  ChooseRequest choice;
  choice.collective = question.collective;
  choice.bytes = question.count * question.element_size;
  choice.placement = placement_of(world_, host_of_);
  choice.placement.most_per_machine = most_per_machine_;
  choice.forced = options_.algorithm;
  choice.lanes = options_.lanes;
  choice.deterministic = options_.deterministic;

  Plan plan;
  plan.key = question.key();
  plan.even = question.send_counts.empty();
  plan.choice = choose(choice, constants_);
  // One part for every peer: the same schedule as with every count given.
  std::vector<uint64_t> even;
  PlanRequest request;
  request.collective = question.collective;
  request.algorithm = plan.choice.algorithm;
  request.rank = rank_;
  request.world = world_;
  request.count = question.count;
  request.element_size = question.element_size;
  request.lanes = plan.choice.lanes;
  request.chunk_bytes = plan.choice.chunk_bytes;
  request.shots = plan.choice.shots;
  request.block_bytes = plan.choice.block_bytes;
  request.root = std::max(question.root, 0);
  request.host_of = host_of_;
  request.send_counts = question.send_counts;
  request.recv_counts = question.recv_counts;
  if (question.collective == Collective::kAllToAll && question.send_counts.empty()) {
    even.assign(ranks, question.count);
    request.send_counts = even;
    request.recv_counts = even;
  }
  Schedule schedule = build(request);
  if (schedule.lanes.empty()) schedule.lanes.emplace_back();
  for (const Lane& lane : schedule.lanes) {
    for (const Step& step : lane) {
      if (step.verb == Verb::kSend) plan.sent_bytes += step.source.size_bytes;
      if (step.verb == Verb::kRecv) plan.received_bytes += step.target.size_bytes;
    }
  }
  plan.schedule = std::make_shared<const Schedule>(std::move(schedule));
  return std::make_shared<const Plan>(std::move(plan));
}

}  // namespace fastgpu
