#include "comm/planner.h"

#include <algorithm>
#include <numeric>

#include "codec/codec_costs.h"

namespace fastgpu {
namespace {

Placement placement_in(const Topology& topology) {
  Placement placement = placement_of(static_cast<int>(topology.records.size()), topology.host_of);
  placement.most_per_machine = topology.most_on_machine;
  return placement;
}

double codec_us(const CodecWork& work, const CodecCosts& costs) {
  return work.encoded * costs.encode_us_per_byte + work.decoded * costs.decode_us_per_byte +
         work.added * costs.decode_add_us_per_byte;
}

}  // namespace

ChooseRequest choose_request_of(const CallShape& shape, const Placement& placement,
                                const Options& options) {
  return {.collective = shape.collective,
          .bytes = shape.count * size_of(shape.dtype),
          .placement = placement,
          .forced = options.algorithm,
          .lanes = options.lanes,
          .codec = shape.codec,
          .deterministic = options.deterministic};
}

PlanRequest plan_request_of(const CallShape& shape, const Choice& choice, int world) {
  PlanRequest request;
  request.collective = shape.collective;
  request.algorithm = choice.algorithm;
  request.world = world;
  request.count = shape.count;
  request.element_size = static_cast<uint32_t>(size_of(shape.dtype));
  request.lanes = choice.lanes;
  request.chunk_bytes = choice.chunk_bytes;
  request.shots = choice.shots;
  request.codec = shape.codec;
  request.block_bytes = choice.block_bytes;
  request.root = std::max(shape.root, 0);
  return request;
}

Planner::Planner(int rank, const Topology& topology, const Options& options)
    : rank_(rank),
      world_(static_cast<int>(topology.records.size())),
      host_of_(topology.host_of),
      placement_(placement_in(topology)),
      options_(options),
      lanes_(options.lanes > 0 ? options.lanes : kMaxChosenLanes) {}

void Planner::set_constants(const Constants& constants) {
  const std::lock_guard lock(mutex_);
  costs_ = CostModel(constants);
  plans_.clear();
}

Constants Planner::constants() const {
  const std::lock_guard lock(mutex_);
  return costs_.constants();
}

std::shared_ptr<const Plan> Planner::plan(const CollectiveCall& call) {
  const std::lock_guard lock(mutex_);
  if (!call.send_counts.empty()) return make(call);
  const auto found = plans_.find(call.shape);
  if (found != plans_.end()) return found->second;
  if (plans_.size() >= kMaxPlans) plans_.clear();
  return plans_.emplace(call.shape, make(call)).first->second;
}

double Planner::predict_us(const CollectiveCall& call) {
  ChooseRequest request = choose_request_of(call.shape, placement_, options_);
  if (!call.send_counts.empty()) {  // a part of the mean size for every peer
    const uint64_t sum =
        std::accumulate(call.send_counts.begin(), call.send_counts.end(), uint64_t{0});
    request.bytes = sum * size_of(call.shape.dtype) / static_cast<uint64_t>(world_);
  }
  const std::lock_guard lock(mutex_);
  const Choice choice = choose(request, costs_);
  const Price price = costs_.price({.collective = request.collective,
                                    .algorithm = choice.algorithm,
                                    .bytes = request.bytes,
                                    .lanes = choice.lanes,
                                    .shots = choice.shots,
                                    .chunk_bytes = choice.chunk_bytes,
                                    .codec = request.codec,
                                    .placement = placement_});
  if (request.codec == Codec::kNone) return price.us;
  return price.us + codec_us(price.codec, costs_of(request.codec)) *
                        ranks_per_core(placement_, costs_.constants());
}

double Planner::predict_us(const MessageCall& call) {
  bool between_hosts = placement_.hosts > 1;
  if (call.peer != kAnySource && !host_of_.empty()) {
    between_hosts = host_of_.at(static_cast<std::size_t>(call.peer)) !=
                    host_of_.at(static_cast<std::size_t>(rank_));
  }
  const std::lock_guard lock(mutex_);
  const LinkCosts& link = costs_.constants().link(between_hosts);
  return link.alpha_us + 2 * link.overhead_us +
         link.beta_us_per_byte * static_cast<double>(call.size_bytes);
}

std::shared_ptr<const Plan> Planner::make(const CollectiveCall& call) {
  Plan plan;
  plan.shape = call.shape;
  plan.send_counts = call.send_counts;
  plan.recv_counts = call.recv_counts;
  plan.choice = choose(choose_request_of(call.shape, placement_, options_), costs_);
  PlanRequest request = plan_request_of(call.shape, plan.choice, world_);
  request.rank = rank_;
  request.host_of = host_of_;
  request.send_counts = call.send_counts;
  request.recv_counts = call.recv_counts;
  Schedule schedule = build(request);
  if (schedule.lanes.empty()) schedule.lanes.emplace_back();
  const FrameBytes bytes = frame_bytes(schedule);
  plan.sent_bytes = bytes.sent;
  plan.received_bytes = bytes.received;
  plan.schedule = std::make_shared<const Schedule>(std::move(schedule));
  return std::make_shared<const Plan>(std::move(plan));
}

}  // namespace fastgpu
