#include "comm/device_lanes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <set>
#include <span>
#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "comm/channel_set.h"
#include "comm/communicator.h"
#include "comm/device_collectives.h"
#include "comm/gather.h"
#include "comm/lane_trial.h"
#include "comm/operation_builder.h"
#include "comm/runtime.h"
#include "comm/topology.h"

namespace fastgpu {
namespace {

// For the peer that has stopped the kernels to say why.
constexpr TimeNs kWordLimit = 2 * kSecond;
// A wait without a limit: centuries.
constexpr uint64_t kNoLimit = UINT64_MAX / 2;

uint64_t patience_of(TimeNs timeout_ns) {
  return timeout_ns == kNever ? kNoLimit : static_cast<uint64_t>(timeout_ns);
}

std::shared_ptr<const Schedule> schedule_without_steps(int lanes) {
  Schedule schedule;
  schedule.lanes.resize(static_cast<std::size_t>(lanes));
  return std::make_shared<const Schedule>(std::move(schedule));
}

}  // namespace

struct DeviceLanes::Record {
  std::array<uint8_t, 16> uuid{};
  uint32_t is_usable = 0;
  uint32_t words_segment = 0;
  uint64_t words_offset = 0;
  uint32_t window_segment = 0;
  uint32_t unused = 0;
  uint64_t window_offset = 0;
};

struct DeviceLanes::Launch {
  const LanePlan& plan;
  const std::byte* input;
  std::byte* data;
  Factors factors;
  uint64_t patience_ns;
};

DeviceLanes::DeviceLanes(const DeviceParts& parts, int device, MappedPeers& peers,
                         DeviceExecutor& executor)
    : runtime_(parts.runtime),
      topology_(parts.topology),
      options_(parts.options),
      device_(device),
      rank_(parts.topology.member.rank),
      world_(static_cast<int>(parts.topology.records.size())),
      kernels_(parts.runtime.lane_kernels()),
      peers_(peers),
      executor_(executor),
      channels_(*parts.channels),
      latch_(parts.latch),
      no_steps_(schedule_without_steps(parts.planner.lanes())) {}

// The same on every rank.
bool DeviceLanes::may_serve() const {
  const std::set<int> hosts(topology_.host_of.begin(), topology_.host_of.end());
  return world_ > 1 && world_ <= device::kMaxRanks && hosts.size() == 1 &&
         peers_.reads_in_place() && options_.gpu_engine != GpuEngine::kHost;
}

DeviceLanes::Record DeviceLanes::prepare() {
  Record mine;
  try {
    mine.uuid = runtime_.devices().properties(device_).uuid;
    if (kernels_.copy_lanes() == nullptr) return mine;
    memory_ = std::make_unique<LaneMemory>(runtime_, device_, rank_, world_);
    const LaneMemory::Places places = memory_->places();
    mine.words_segment = places.words.segment;
    mine.words_offset = places.words.offset_bytes;
    mine.window_segment = places.window.segment;
    mine.window_offset = places.window.offset_bytes;
    mine.is_usable = 1;
  } catch (const CommError& error) {
    log(LogLevel::kInfo, "gpu_lanes_off", "reason=" + in_quotes(error.what()));
  } catch (const std::bad_alloc&) {
    log(LogLevel::kInfo, "gpu_lanes_off", "reason=\"out of memory\"");
  }
  return mine;
}

void DeviceLanes::set_up(Communicator& communicator) {
  if (!may_serve()) return;
  const Record mine = prepare();
  const std::vector<Record> records = gather<Record>(communicator, {&mine, 1}, kSetUpOfGpus);
  std::set<std::array<uint8_t, 16>> gpus;
  std::vector<LaneMemory::Places> places;
  bool works = true;
  for (const Record& record : records) {
    works = works && record.is_usable != 0 && gpus.insert(record.uuid).second;
    places.push_back({{record.words_segment, record.words_offset},
                      {record.window_segment, record.window_offset}});
  }
  if (!works) return memory_.reset();
  memory_->set_up(communicator, peers_, places);
  const LaneVerdict verdict = try_lanes(runtime_, *memory_, kernels_, executor_, rank_, world_);
  LaneCosts costs{.enqueue_us = peers_.costs().enqueue_us,
                  .copy_us_per_byte = peers_.costs().copy_us_per_byte};
  for (const LaneVerdict& each : gather<LaneVerdict>(communicator, {&verdict, 1}, kSetUpOfGpus)) {
    works = works && each.works != 0;
    costs.trip_us = std::max(costs.trip_us, each.trip_us);
    costs.peer_us_per_byte = std::max(costs.peer_us_per_byte, each.peer_us_per_byte);
  }
  if (!works) {
    log(LogLevel::kWarn, "gpu_lanes_off",
        "reason=\"the kernels of the ranks do not reach each other's memory as they should\"");
    return memory_.reset();
  }
  plans_ = std::make_unique<LanePlans>(rank_, world_, options_, kernels_, costs, *memory_);
  is_set_up_.store(true);
}

const LanePlan* DeviceLanes::plan(const CollectiveCall& call, Planner& by_host) {
  if (!is_set_up_.load() || !call.send_counts.empty()) return nullptr;
  const LanePlan& plan = plans_->plan(call, by_host);
  return plan.kernel == nullptr ? nullptr : &plan;
}

DeviceLanes::Launch DeviceLanes::launch_of(const CollectiveCall& call, const LanePlan& plan) const {
  return {.plan = plan,
          .input = call.input,
          .data = call.data,
          .factors = factors_of(call, world_),
          .patience_ns = patience_of(ns_of_ms(call.timeout_ms))};
}

std::shared_ptr<Operation> DeviceLanes::make(CollectiveCall& call, const LanePlan& plan) {
  auto operation = std::make_shared<Operation>();
  Task& task = operation->task;
  task.call = plan.call;
  task.op = call.op;
  task.key = pack(plan.call);
  task.element_size = static_cast<uint32_t>(size_of(call.shape.dtype));
  task.rank = rank_;
  task.timeout_ns = ns_of_ms(call.timeout_ms);
  task.schedule = no_steps_;
  task.sent_bytes = plan.sent_bytes;
  task.received_bytes = plan.received_bytes;
  task.is_internal = call.is_internal;
  task.prologue = std::move(call.prologue);
  task.keep_alive = std::move(call.keep_alive);
  // When all lanes of the queue have ended the operations before this one.
  task.epilogue = [this, launch = launch_of(call, plan), last = std::move(call.epilogue),
                   made = operation.get()] {
    executor_.enqueue([&](StreamHandle stream) { enqueue(stream, launch); });
    watch({made->task.call, op_of(made->task), made->sequence, made->task.timeout_ns});
    if (last) last();
  };
  return operation;
}

void DeviceLanes::capture(const CollectiveCall& call, const LanePlan& plan) {
  was_captured_.store(true);
  enqueue(*call.stream, launch_of(call, plan));
}

void DeviceLanes::enqueue(StreamHandle stream, const Launch& launch) {
  launch.plan.is_small ? enqueue_small(stream, launch) : enqueue_lanes(stream, launch);
}

void DeviceLanes::stage(StreamHandle stream, const Launch& launch, std::byte* target,
                        const std::byte* source, uint64_t size_bytes) {
  if (size_bytes == 0) return;
  DeviceRuntime& devices = runtime_.devices();
  if (launch.factors.before == 1) {
    if (target != source) devices.copy(stream, target, source, size_bytes);
    return;
  }
  devices.reduce(stream, {.sources = {&source, 1},
                          .targets = {&target, 1},
                          .size_bytes = size_bytes,
                          .dtype = part_of(launch.plan.call.shape.dtype),
                          .factor = launch.factors.before});
}

void DeviceLanes::enqueue_small(StreamHandle stream, const Launch& launch) {
  const LanePlan& plan = launch.plan;
  stage(stream, launch, launch.data, launch.data, plan.buffers.data_bytes);
  device::SmallArgs args = memory_->small_args(launch.patience_ns);
  std::ranges::copy(pack(plan.call), args.key);
  args.input = launch.data;
  args.output = launch.data;
  args.size_bytes = plan.buffers.data_bytes;
  args.factor = launch.factors.after;
  const uint64_t words = (args.size_bytes + 3) / 4;
  const uint64_t blocks = (words + kernels_.threads - 1) / kernels_.threads;
  runtime_.devices().launch(
      stream, {.kernel = plan.kernel,
               .arguments = std::as_bytes(std::span(&args, 1)),
               .blocks = static_cast<unsigned>(std::min<uint64_t>(blocks, device::kSmallBlocks)),
               .threads = kernels_.threads});
}

void DeviceLanes::enqueue_lanes(StreamHandle stream, const Launch& launch) {
  const LanePlan& plan = launch.plan;
  std::byte* const window = memory_->window();
  stage(stream, launch, window + plan.input_at, launch.input, plan.buffers.input_bytes);
  if (plan.buffers.reads_data) {
    stage(stream, launch, window + plan.data_at, launch.data, plan.buffers.data_bytes);
  }
  device::LaneArgs args = memory_->lane_args(launch.patience_ns);
  std::ranges::copy(pack(plan.call), args.key);
  args.entries = reinterpret_cast<const device::Entry*>(plan.entries->get());
  args.first = reinterpret_cast<const uint32_t*>(plan.first->get());
  args.factor = launch.factors.after;
  const std::array places{plan.input_at, plan.data_at, plan.scratch_at};
  for (std::size_t i = 0; i < places.size(); ++i) {
    args.buffers[i] = window + places[i];
    args.locations[i] = LaneMemory::location_in_window(places[i]);
  }
  DeviceRuntime& devices = runtime_.devices();
  devices.launch(stream, {.kernel = plan.kernel,
                          .arguments = std::as_bytes(std::span(&args, 1)),
                          .blocks = plan.lanes,
                          .threads = kernels_.threads});
  if (plan.buffers.data_bytes == 0) return;
  devices.copy(stream, launch.data, window + plan.data_at, plan.buffers.data_bytes);
}

void DeviceLanes::watch(Watched kernel) {
  pending_.fetch_add(1);
  executor_.when_passed([this, kernel = std::move(kernel)] {
    if (memory_->ended() != 0) report(kernel);
    pending_.fetch_sub(1);
  });
}

// Of the first kernel that has ended by a failure. Later ones end by the same.
void DeviceLanes::report(const Watched& kernel) noexcept {
  if (latch_->failure() != nullptr || stopped_since_.load() != 0) return;
  try {
    const device::Control record = memory_->record();
    const auto point = __builtin_bit_cast(device::FailurePoint, record.failure);
    if (point.code == device::FailureCode::kNone) {  // a peer stopped it, and tells why
      stopped_since_.store(now_ns());
    } else if (point.code != device::FailureCode::kStopped) {  // not by stop()
      latch_->report(failure_of(kernel, record));
    }
  } catch (const CommError& error) {  // of this rank's own device
    latch_->report(error.failure());
  }
}

Failure DeviceLanes::failure_of(const Watched& kernel, const device::Control& record) const {
  const auto point = __builtin_bit_cast(device::FailurePoint, record.failure);
  const std::string peer = "rank " + std::to_string(point.peer);
  Failure failure;
  failure.peer = point.peer;
  failure.op = kernel.op;
  failure.sequence = static_cast<int64_t>(kernel.sequence);
  if (point.code == device::FailureCode::kTimeout) {
    failure.kind = ErrorKind::kTimeout;
    failure.message = timed_out_after(kernel.timeout_ns) + describe(kernel.call) + " waited for " +
                      peer + ", whose GPU has not come to it, or waits for another rank itself";
  } else if (point.code == device::FailureCode::kDeparted) {
    failure.kind = ErrorKind::kPeerLost;
    failure.message = "the connection to " + peer + " is closed";
  } else {
    Call theirs;
    const bool is_known = unpack({record.theirs[0], record.theirs[1]}, theirs);
    failure.kind = ErrorKind::kMismatch;
    failure.message = peer + " called " + (is_known ? describe(theirs) : "an unknown call") +
                      ", but rank " + std::to_string(rank_) + " called " + describe(kernel.call) +
                      "; every rank must make the same calls in the same order";
  }
  return failure;
}

void DeviceLanes::stop() noexcept {
  if (is_set_up_.load()) memory_->stop();
}

// The channels run what watch() has asked for.
bool DeviceLanes::poll() noexcept {
  if (!is_set_up_.load()) return false;
  if (latch_->failure() != nullptr) {
    stopped_since_.store(0);
    if (!std::exchange(has_stopped_, true)) stop();
  } else if (was_captured_.load() && memory_->ended() != 0) {
    report({.call = {}, .op = "a captured collective"});
  }
  for (int peer = 0; busy() && peer < world_; ++peer) {
    if (peer != rank_ && channels_.departed(peer)) memory_->peer_left(peer);
  }
  return false;
}

void DeviceLanes::expire(TimeNs now) noexcept {
  const TimeNs since = stopped_since_.load();
  if (since == 0 || now - since < kWordLimit) return;
  const auto rank = static_cast<int>(memory_->ended() >> 8) - 1;
  Failure failure = make_failure(
      ErrorKind::kAborted,
      "rank " + std::to_string(rank) + " has stopped the kernels of all ranks, and not said why");
  failure.peer = rank;
  latch_->report(std::move(failure));
}

}  // namespace fastgpu
