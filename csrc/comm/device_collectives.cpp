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

// The executor has no step that adds a residual alone, which `hierarchical` needs.
Options by_direct(Options options) {
  options.algorithm = Algorithm::kDirect;
  return options;
}

}  // namespace

DeviceCollectives::DeviceCollectives(const DeviceParts& parts, int device)
    : runtime_(parts.runtime),
      host_channels_(parts.channels),
      latch_(parts.latch),
      host_planner_(parts.planner),
      planner_(parts.topology.member.rank, parts.topology, parts.options),
      encoded_planner_(parts.topology.member.rank, parts.topology, by_direct(parts.options)),
      executor_(runtime_.devices(), device),
      scratch_memory_(runtime_.device_heap(device), executor_),
      scratch_(std::make_shared<ScratchPool>(&scratch_memory_)),
      builder_(with_executor(parts.builder, executor_), scratch_memory_),
      peers_(runtime_, parts.topology, device, latch_),
      lanes_(*host_channels_, parts.planner.lanes() + 1),
      channels_({.runtime = runtime_.devices(),
                 .executor = executor_,
                 .heap = runtime_.device_heap(device),
                 .peers = peers_,
                 .host_channels = lanes_},
                latch_),
      queue_(channels_, parts.planner.lanes(), latch_) {}

// The parts have the lifetime of the whole: a pass of the engine may hold one a little longer than
// this is in use.
std::shared_ptr<DeviceCollectives> DeviceCollectives::create(const DeviceParts& parts, int device) {
  const auto made = std::make_shared<DeviceCollectives>(parts, device);
  parts.channels->expect_device_segments(
      [weak = std::weak_ptr(made)](int peer, uint32_t segment, const SharedSegment& shared) {
        if (const auto held = weak.lock()) held->peers_.take_segment(peer, segment, shared);
      });
  Engine& engine = parts.runtime.engine();
  engine.add(std::shared_ptr<DeviceChannels>(made, &made->channels_));
  engine.add(std::shared_ptr<CollectiveQueue>(made, &made->queue_));
  return made;
}

void DeviceCollectives::leave() {
  runtime_.engine().remove(&queue_);
  runtime_.engine().remove(&channels_);
  executor_.finish();  // before the memory of peers is unmapped
}

void DeviceCollectives::set_up(Communicator& communicator) {
  if (is_set_up_.load()) return;
  const std::lock_guard lock(set_up_mutex_);
  if (is_set_up_.load()) return;
  peers_.set_up(communicator, executor_);
  const Constants constants = peers_.constants(host_planner_.constants());
  planner_.set_constants(constants);
  encoded_planner_.set_constants(constants);
  is_set_up_.store(true);
}

std::shared_ptr<Operation> DeviceCollectives::push(CollectiveCall call) {
  builder_.check(call);
  Planner& planner = call.shape.codec == Codec::kNone ? planner_ : encoded_planner_;
  const auto plan = planner.plan(call);
  const std::shared_ptr<DeviceExecutor> executor(shared_from_this(), &executor_);
  const auto operation = std::make_shared<Operation>();
  try {
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
    builder_.fill(*operation, call, *plan);
  } catch (const DeviceError& error) {  // the peers need not wait for this rank's part
    latch_->report(error.failure());
    throw;
  }
  queue_.push(operation);
  return operation;
}

std::shared_ptr<std::byte> DeviceCollectives::scratch(std::size_t size_bytes) const {
  const auto block = std::make_shared<Scratch>(scratch_, size_bytes);
  return {block, block->memory()};
}

}  // namespace fastgpu
