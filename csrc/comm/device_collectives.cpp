#include "comm/device_collectives.h"

#include <string>
#include <utility>

#include "comm/channel_set.h"
#include "comm/runtime.h"
#include "comm/topology.h"

namespace fastgpu {
namespace {

OperationBuilder::Config with_executor(OperationBuilder::Config config, Executor& executor) {
  config.executor = &executor;
  return config;
}

}  // namespace

DeviceCollectives::DeviceCollectives(const DeviceParts& parts, int device)
    : runtime_(parts.runtime),
      host_channels_(parts.channels),
      latch_(parts.latch),
      host_planner_(parts.planner),
      planner_(parts.topology.member.rank, parts.topology, parts.options),
      executor_(runtime_.devices(), device),
      scratch_memory_(runtime_.device_heap(device), executor_),
      scratch_(std::make_shared<ScratchPool>(&scratch_memory_)),
      builder_(with_executor(parts.builder, executor_), scratch_memory_),
      peers_(runtime_, parts.topology, device, latch_),
      channel_range_(*host_channels_, parts.planner.lanes() + 1),
      channels_({.runtime = runtime_.devices(),
                 .executor = executor_,
                 .heap = runtime_.device_heap(device),
                 .peers = peers_,
                 .host_channels = channel_range_},
                latch_),
      lanes_(parts, device, peers_, executor_, channels_),
      queue_(channels_, parts.planner.lanes(), latch_) {}

// The engine gets aliasing pointers, which keep the whole alive: it may still poll a part just
// after leave().
std::shared_ptr<DeviceCollectives> DeviceCollectives::create(const DeviceParts& parts, int device) {
  const auto made = std::make_shared<DeviceCollectives>(parts, device);
  const std::weak_ptr<DeviceCollectives> weak = made;
  parts.channels->expect_device_segments(
      {.take =
           [weak](int peer, uint32_t segment, const SharedSegment& shared) {
             if (const auto held = weak.lock()) held->peers_.take_segment(peer, segment, shared);
           },
       .note_mapped =
           [weak](int peer, uint32_t segment) {
             if (const auto held = weak.lock()) held->peers_.note_mapped(peer, segment);
           }});
  Engine& engine = parts.runtime.engine();
  engine.add(std::shared_ptr<DeviceChannels>(made, &made->channels_));
  engine.add(std::shared_ptr<CollectiveQueue>(made, &made->queue_));
  engine.add(std::shared_ptr<KernelWatch>(made, &made->lanes_.watch()));
  return made;
}

void DeviceCollectives::leave() {
  runtime_.engine().remove(&queue_);
  runtime_.engine().remove(&channels_);
  runtime_.engine().remove(&lanes_.watch());
  lanes_.watch().stop();
  executor_.finish();  // before the memory of peers is unmapped
}

void DeviceCollectives::set_up(Communicator& communicator) {
  if (is_set_up_.load()) return;
  const std::lock_guard lock(set_up_mutex_);
  if (is_set_up_.load()) return;
  peers_.set_up(communicator, executor_);
  planner_.set_constants(peers_.constants(host_planner_.constants()));
  lanes_.set_up(communicator);
  is_set_up_.store(true);
}

std::shared_ptr<Operation> DeviceCollectives::push(CollectiveCall call) {
  builder_.check(call);
  const std::shared_ptr<DeviceExecutor> executor(shared_from_this(), &executor_);
  std::shared_ptr<Operation> operation;
  try {
    const LanePlan* const by_kernels = lanes_.plan(call, planner_);
    const auto ready = executor->place_in(*call.stream);
    call.prologue = [executor, ready, first = std::move(call.prologue)] {
      executor->start_after(ready);
      if (first) first();
    };
    call.epilogue = [executor, end = call.device_end, last = std::move(call.epilogue)] {
      if (last) last();
      if (end != nullptr) end->set(executor, executor->mark());
    };
    call.keep_alive = executor->keep(std::move(call.keep_alive));
    operation = by_kernels != nullptr ? lanes_.make(call, *by_kernels) : make_host_driven(call);
  } catch (const DeviceError& error) {  // so that the peers do not wait for this rank
    latch_->report(error.failure());
    throw;
  }
  queue_.push(operation);
  return operation;
}

std::shared_ptr<Operation> DeviceCollectives::make_host_driven(CollectiveCall& call) {
  auto operation = std::make_shared<Operation>();
  builder_.fill(*operation, call, *planner_.plan(call));
  return operation;
}

void DeviceCollectives::capture(const CollectiveCall& call) {
  latch_->raise_if_failed();
  builder_.check(call);
  const bool has_hooks = call.prologue || call.epilogue;
  const LanePlan* const plan = has_hooks ? nullptr : lanes_.plan(call, planner_);
  if (plan == nullptr) {
    std::string remedy;
    if (has_hooks) {
      remedy = "pass single tensors that do not overlap, as to all_gather_into_tensor, or ";
    } else if (lanes_.may_be_forced(call)) {
      remedy = "set FASTGPU_GPU_ENGINE=lanes, or ";
    }
    raise(ErrorKind::kInvalidArgument,
          std::string(name_of(call.shape.collective)) +
              " cannot be captured in a graph: the host takes part in it, but not in a replay; " +
              remedy +
              "make the call outside of the capture (docs/cuda.md, \"Graphs\", says what can be "
              "captured)");
  }
  lanes_.capture(call, *plan);
}

std::shared_ptr<std::byte> DeviceCollectives::scratch(std::size_t size_bytes) const {
  const auto block = std::make_shared<Scratch>(scratch_, size_bytes);
  return {block, block->memory()};
}

}  // namespace fastgpu
