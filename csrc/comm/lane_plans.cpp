#include "comm/lane_plans.h"

#include <algorithm>
#include <limits>

#include "engine/device/table.h"
#include "plan/build.h"
#include "plan/cost/choose.h"

namespace fastgpu {
namespace {

// A block of threads that moves less than this is mostly its own latency.
constexpr uint64_t kLaneBytes = 32 * 1024;
// The elements of a piece are a multiple of this, so that all are aligned as the tensor is.
constexpr uint64_t kPieceUnit = 16;

// Every lane pulls at the full rate of the link as far as the model knows: which algorithm is
// quickest depends on steps and bytes, and the number of lanes only on the size. The model gives
// half of the work of a byte to each end, though the receiver has all of it.
Constants constants_of(const LaneCosts& costs) {
  Constants constants;
  constants.is_gpu = true;
  constants.same_host = {.alpha_us = costs.latency_us,
                         .beta_us_per_byte = costs.peer_us_per_byte,
                         .overhead_us = 0,
                         .cpu_us_per_byte = costs.peer_us_per_byte / 2};
  constants.copy_us_per_byte = costs.copy_us_per_byte;
  constants.reduce_us_per_byte = 0;  // done while bytes arrive
  return constants;
}

int lanes_for(uint64_t size_bytes, int wanted) {
  if (wanted > 0) return std::min(wanted, LaneMemory::kMaxLanes);
  return static_cast<int>(std::clamp<uint64_t>(size_bytes / kLaneBytes, 1, LaneMemory::kMaxLanes));
}

bool has_factor(const CallShape& shape) {
  return reduces(shape.collective) &&
         (shape.reduce_op == ReduceOp::kAvg || shape.reduce_op == ReduceOp::kPremulSum);
}

// Whether the kernels leave a sum, which is divided afterwards.
bool divides_later(const CallShape& shape) {
  return reduces(shape.collective) && device::is_integer_average(shape.dtype, shape.reduce_op);
}

// The reduction of the kernels. Factors are multiplied apart from the sum.
ReduceOp kernels_op(const CallShape& shape) {
  const bool is_sum = shape.reduce_op == ReduceOp::kPremulSum || divides_later(shape);
  return is_sum ? ReduceOp::kSum : shape.reduce_op;
}

double us_of(uint64_t size_bytes, double us_per_byte) {
  return static_cast<double>(size_bytes) * us_per_byte;
}

}  // namespace

CallBuffers buffers_of(const CallShape& shape, int rank, int world) {
  const uint64_t part = shape.count * size_of(shape.dtype);
  const uint64_t all = part * static_cast<uint64_t>(world);
  const bool is_root = rank == shape.root;
  switch (shape.collective) {
    case Collective::kAllReduce:
    case Collective::kBroadcast:
      return {.data_bytes = part, .reads_data = true};
    case Collective::kReduceScatter:
      return {.input_bytes = all, .data_bytes = part};
    case Collective::kAllGather:
      return {.input_bytes = part, .data_bytes = all};
    case Collective::kReduce:
      return {.input_bytes = part, .data_bytes = is_root ? part : 0};
    case Collective::kGather:
      return {.input_bytes = part, .data_bytes = is_root ? all : 0};
    case Collective::kScatter:
      return {.input_bytes = is_root ? all : 0, .data_bytes = part};
    case Collective::kAllToAll:
      return {.input_bytes = all, .data_bytes = all};
    case Collective::kBarrier:
      break;
  }
  return {};
}

const LanePlan& LanePlans::plan(const CollectiveCall& call, Planner& by_host) {
  static const LanePlan kByHost{};
  const std::lock_guard lock(mutex_);
  const auto found = plans_.find(call.shape);
  if (found != plans_.end()) return *found->second;
  if (plans_.size() >= kMostPlans) return kByHost;
  return *plans_.emplace(call.shape, make(call, by_host)).first->second;
}

std::unique_ptr<LanePlan> LanePlans::make(const CollectiveCall& call, Planner& by_host) {
  const CallShape& shape = call.shape;
  auto plan = std::make_unique<LanePlan>();
  plan->call.shape = shape;
  if (!has_root(shape.collective)) plan->call.shape.root = kNoRoot;
  plan->buffers = buffers_of(shape, rank_, world_);
  plan->divides_later = divides_later(shape);
  if (shape.codec != Codec::kNone || shape.collective == Collective::kBarrier || shape.count == 0) {
    return plan;
  }
  ChooseRequest request = choose_request_of(shape, placement_of(world_, {}), options_);
  request.lanes = 1;
  CostModel model(constants_of(costs_));
  const Choice choice = choose(request, model);
  const Price price = model.price({.collective = request.collective,
                                   .algorithm = choice.algorithm,
                                   .bytes = request.bytes,
                                   .shots = choice.shots,
                                   .chunk_bytes = choice.chunk_bytes,
                                   .placement = request.placement});
  // The costs of the rank that stages most: a root's tensors are larger than the others'.
  const CallBuffers most = buffers_of(shape, std::max(shape.root, 0), world_);
  const int enqueued = 1 + (most.input_bytes > 0 ? 1 : 0) + (most.reads_data ? 2 : 1);
  const double lanes_us = enqueued * costs_.enqueue_us + price.us +
                          us_of(2 * most.data_bytes + most.input_bytes, costs_.copy_us_per_byte);
  const void* const small = small_kernel(shape);
  const double small_us =
      small == nullptr ? std::numeric_limits<double>::infinity() : small_us_of(request.bytes);
  const double division_us = plan->divides_later ? costs_.enqueue_us : 0;
  const bool is_forced = options_.gpu_engine == GpuEngine::kLanes;
  if (!is_forced && by_host.predict_us(call) <= std::min(lanes_us, small_us) + division_us) {
    return plan;
  }
  plan->is_small = small_us <= lanes_us;
  if (plan->is_small) {
    plan->kernel = small;
    plan->call.algorithm = Algorithm::kDirect;
  } else if (const void* const kernel = lanes_kernel(shape)) {
    fill_lanes(*plan, choice, kernel);
  }
  if (plan->kernel == nullptr) return plan;
  memory_.load(plan->kernel);
  if (has_factor(shape)) memory_.load_scaling(part_of(shape.dtype));
  return plan;
}

const void* LanePlans::lanes_kernel(const CallShape& shape) const {
  if (!reduces(shape.collective)) return kernels_.copy_lanes();
  return kernels_.lanes(shape.dtype, kernels_op(shape));
}

// nullptr if the call is too large, or there is no kernel for it. The kernel combines in rank
// order, like `direct`.
const void* LanePlans::small_kernel(const CallShape& shape) const {
  const bool is_direct =
      options_.algorithm == Algorithm::kAuto || options_.algorithm == Algorithm::kDirect;
  const bool is_small =
      shape.collective == Collective::kAllReduce && is_direct &&
      shape.count * size_of(shape.dtype) <= LaneMemory::kSmallWords * sizeof(uint32_t);
  return is_small ? kernels_.small(shape.dtype, kernels_op(shape)) : nullptr;
}

// Every rank receives all words of every peer, and a word is half flag, half data.
double LanePlans::small_us_of(uint64_t size_bytes) const {
  return costs_.enqueue_us + costs_.latency_us +
         us_of(2 * size_bytes * static_cast<uint64_t>(world_ - 1), costs_.peer_us_per_byte);
}

// By rank.
std::vector<Schedule> LanePlans::schedules_of(const CallShape& shape, const Choice& choice) const {
  PlanRequest request = plan_request_of(shape, choice, world_);
  request.lanes = lanes_for(shape.count * size_of(shape.dtype), options_.lanes);
  std::vector<Schedule> schedules;
  for (request.rank = 0; request.rank < world_; ++request.rank) {
    schedules.push_back(build(request));
  }
  return schedules;
}

// The most that a rank stages, if none of its tensors is read in place.
uint64_t LanePlans::staged_bytes(const CallShape& shape,
                                 std::span<const Schedule> schedules) const {
  uint64_t most_bytes = 0;
  for (int rank = 0; rank < world_; ++rank) {
    const CallBuffers buffers = buffers_of(shape, rank, world_);
    most_bytes = std::max(most_bytes, LaneMemory::aligned(buffers.input_bytes) +
                                          LaneMemory::aligned(buffers.data_bytes) +
                                          schedules[static_cast<std::size_t>(rank)].scratch_bytes);
  }
  return most_bytes;
}

// The elements of a piece: as few pieces as the staging memory allows, all but the last of one
// size. 0 if it is too small for any piece. Whether tensors need the staging memory makes no
// difference: ranks do not know where tensors of their peers lie.
uint64_t LanePlans::piece_count(const CallShape& shape, const Choice& choice) const {
  CallShape piece = shape;
  const auto needed = [&] { return staged_bytes(piece, schedules_of(piece, choice)); };
  const uint64_t staging_bytes = memory_.staging_bytes();
  const uint64_t whole_bytes = needed();
  if (whole_bytes <= staging_bytes) return shape.count;
  for (uint64_t pieces = (whole_bytes + staging_bytes - 1) / staging_bytes;; ++pieces) {
    const uint64_t units = (shape.count + pieces * kPieceUnit - 1) / (pieces * kPieceUnit);
    piece.count = units * kPieceUnit;
    if (piece.count < shape.count && needed() <= staging_bytes) return piece.count;
    if (units == 1) return 0;
  }
}

LanePiece LanePlans::make_piece(const CallShape& shape, std::span<const Schedule> schedules) {
  const CallBuffers buffers = buffers_of(shape, rank_, world_);
  const device::Table table = device::compile(schedules, rank_);
  LanePiece piece;
  piece.count = shape.count;
  piece.lanes = static_cast<unsigned>(schedules.front().lanes.size());
  piece.data_at = LaneMemory::aligned(buffers.input_bytes);
  piece.scratch_at = piece.data_at + LaneMemory::aligned(buffers.data_bytes);
  piece.entries =
      memory_.upload(table.entries.data(), table.entries.size() * sizeof(device::Entry));
  piece.first = memory_.upload(table.first.data(), table.first.size() * sizeof(uint32_t));
  return piece;
}

// Leaves the plan without a kernel if the staging memory is too small for some rank.
void LanePlans::fill_lanes(LanePlan& plan, const Choice& choice, const void* kernel) {
  const uint64_t count = plan.call.shape.count;
  const uint64_t each = piece_count(plan.call.shape, choice);
  if (each == 0) return;
  CallShape shape = plan.call.shape;
  const auto add = [&](uint64_t elements, uint64_t times) {
    if (elements == 0) return;
    shape.count = elements;
    const std::vector<Schedule> schedules = schedules_of(shape, choice);
    plan.pieces.push_back(make_piece(shape, schedules));
    const FrameBytes bytes = frame_bytes(schedules[static_cast<std::size_t>(rank_)]);
    plan.sent_bytes += times * bytes.sent;
    plan.received_bytes += times * bytes.received;
  };
  add(each, count / each);
  add(count % each, 1);
  plan.call.algorithm = choice.algorithm;
  plan.call.lanes = static_cast<uint8_t>(plan.pieces.front().lanes);
  plan.kernel = kernel;
}

}  // namespace fastgpu
