#include "comm/device_lanes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <set>
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

// In nanoseconds: centuries.
constexpr uint64_t kNoLimit = UINT64_MAX / 2;

uint64_t limit_of(TimeNs timeout_ns) {
  return timeout_ns == kNever ? kNoLimit : static_cast<uint64_t>(timeout_ns);
}

std::shared_ptr<const Schedule> schedule_without_steps(int lanes) {
  Schedule schedule;
  schedule.lanes.resize(static_cast<std::size_t>(lanes));
  return std::make_shared<const Schedule>(std::move(schedule));
}

}  // namespace

struct DeviceLanes::PeerSetup {
  std::array<uint8_t, 16> uuid{};
  uint32_t is_usable = 0;
  uint32_t words_segment = 0;
  uint64_t words_offset = 0;
  uint32_t staging_segment = 0;
  uint32_t unused = 0;  // where the compiler would leave a gap
  uint64_t staging_offset = 0;
};

DeviceLanes::DeviceLanes(const DeviceParts& parts, int device, MappedPeers& peers,
                         DeviceExecutor& executor, ChannelSource& channels)
    : runtime_(parts.runtime),
      topology_(parts.topology),
      options_(parts.options),
      device_(device),
      rank_(parts.topology.member.rank),
      world_(static_cast<int>(parts.topology.records.size())),
      kernels_(parts.runtime.lane_kernels()),
      peers_(peers),
      executor_(executor),
      latch_(parts.latch),
      no_steps_(schedule_without_steps(parts.planner.lanes())),
      watch_(channels, executor, {.mine = rank_, .world = world_, .lanes = parts.planner.lanes()},
             parts.latch) {}

// The same on every rank.
bool DeviceLanes::may_serve() const {
  const std::set<int> hosts(topology_.host_of.begin(), topology_.host_of.end());
  return world_ > 1 && world_ <= device::kMaxRanks && hosts.size() == 1 &&
         peers_.reads_in_place() && options_.gpu_engine != GpuEngine::kHost;
}

DeviceLanes::PeerSetup DeviceLanes::prepare() {
  PeerSetup mine;
  try {
    mine.uuid = runtime_.devices().properties(device_).uuid;
    if (kernels_.copy_lanes() == nullptr) return mine;
    memory_ = std::make_unique<LaneMemory>(runtime_, device_, topology_.member, world_,
                                           kernels_.staging_bytes);
    const LaneMemory::Spans spans = memory_->announce();
    mine.words_segment = spans.words.segment;
    mine.words_offset = spans.words.offset_bytes;
    mine.staging_segment = spans.staging.segment;
    mine.staging_offset = spans.staging.offset_bytes;
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
  RetiredWords& retired = runtime_.retired_words();
  retired.note_ended(gather<MemberKey>(communicator, retired.ended_members(), kSetUpOfGpus));
  const PeerSetup mine = prepare();
  const std::vector<PeerSetup> all = gather<PeerSetup>(communicator, {&mine, 1}, kSetUpOfGpus);
  std::set<std::array<uint8_t, 16>> gpus;
  std::vector<LaneMemory::Spans> spans;
  bool works = true;
  for (const PeerSetup& each : all) {
    works = works && each.is_usable != 0 && gpus.insert(each.uuid).second;
    spans.push_back(
        {{each.words_segment, each.words_offset}, {each.staging_segment, each.staging_offset}});
  }
  if (!works) {
    if (memory_ != nullptr) memory_->withdraw();  // no rank will set up its memory
    return memory_.reset();
  }
  memory_->set_up(communicator, peers_, spans);
  const LaneVerdict verdict = try_lanes(runtime_, *memory_, kernels_, executor_, rank_, world_);
  LaneCosts costs{.enqueue_us = peers_.costs().enqueue_us,
                  .copy_us_per_byte = peers_.costs().copy_us_per_byte};
  for (const LaneVerdict& each : gather<LaneVerdict>(communicator, {&verdict, 1}, kSetUpOfGpus)) {
    works = works && each.works != 0;
    costs.latency_us = std::max(costs.latency_us, each.latency_us);
    costs.peer_us_per_byte = std::max(costs.peer_us_per_byte, each.peer_us_per_byte);
  }
  if (!works) {
    log(LogLevel::kWarn, "gpu_lanes_off",
        "reason=\"the kernels of the ranks do not reach each other's memory as they should\"");
    memory_->stop();
    executor_.finish();  // a kernel of the trial may still run
    return memory_.reset();
  }
  plans_ = std::make_unique<LanePlans>(rank_, world_, options_, kernels_, costs, *memory_);
  launcher_ = std::make_unique<LaneLauncher>(runtime_.devices(), *memory_, peers_, kernels_);
  peers_.take_for_kernels([this](int peer, uint32_t segment, const std::byte* base) {
    memory_->add_segment(peer, segment, base);
  });
  watch_.begin(*memory_);
  is_set_up_.store(true);
}

const LanePlan* DeviceLanes::plan(const CollectiveCall& call, Planner& by_host) {
  if (!is_set_up_.load() || !call.send_counts.empty()) return nullptr;
  try {
    const LanePlan& plan = plans_->plan(call, by_host);
    return plan.kernel == nullptr ? nullptr : &plan;
  } catch (const CommError& error) {  // so that the peers do not wait for this rank
    latch_->report(error.failure());
    throw;
  }
}

bool DeviceLanes::may_be_forced(const CollectiveCall& call) const {
  const bool is_chosen = options_.gpu_engine == GpuEngine::kHost ||
                         (options_.gpu_engine == GpuEngine::kAuto && is_set_up_.load());
  return is_chosen && call.send_counts.empty() && call.shape.count > 0;
}

LaneLaunch DeviceLanes::launch_of(const CollectiveCall& call, const LanePlan& plan,
                                  uint32_t end) const {
  return {.plan = plan,
          .input = call.input,
          .data = call.data,
          .factors = factors_of(call, world_),
          .timeout_ns = limit_of(ns_of_ms(call.timeout_ms)),
          .end = end};
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
  // Runs when the queue has finished every earlier operation, so kernels launch in call order.
  task.epilogue = [this, launch = launch_of(call, plan, memory_->take_end()),
                   last = std::move(call.epilogue), made = operation.get()] {
    executor_.enqueue([&](StreamHandle stream) { launcher_->enqueue(stream, launch); });
    watch_.add({.call = made->task.call,
                .op = op_of(made->task),
                .sequence = static_cast<int64_t>(made->sequence),
                .timeout_ns = made->task.timeout_ns,
                .end = launch.end});
    if (last) last();
  };
  return operation;
}

void DeviceLanes::capture(const CollectiveCall& call, const LanePlan& plan) {
  watch_.expect_replays();
  memory_->keep_words();  // a replay may come at any time
  launcher_->enqueue(*call.stream, launch_of(call, plan, LaneMemory::kEndInGraphs));
}

}  // namespace fastgpu
