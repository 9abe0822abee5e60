#include "comm/device_member.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/log.h"
#include "comm/channel_set.h"
#include "comm/runtime.h"
#include "comm/topology.h"

namespace fastgpu {
namespace {

constexpr TimeNs kSettleLimit = 2 * kSecond;
constexpr TimeNs kLookAgainNs = 20'000;  // nothing rings when a GPU has done its work

// There is no empty block.
std::size_t block_bytes(uint64_t size_bytes) { return std::max<uint64_t>(size_bytes, 1); }

OperationBuilder::Config with_executor(OperationBuilder::Config config, Executor& executor) {
  config.executor = &executor;
  return config;
}

int checked(DeviceRuntime& devices, int device) {
  if (device >= 0 && device < devices.device_count()) return device;
  raise(ErrorKind::kInvalidArgument,
        "there is no GPU " + std::to_string(device) + "; this process has " +
            std::to_string(devices.device_count()) + ", counted from 0");
}

}  // namespace

bool ExecutorPoll::poll() noexcept {
  if (has_failed_.load()) return false;
  try {
    executor_.passed();
  } catch (const CommError& error) {
    has_failed_.store(true);
    latch_->report(error.failure());
  }
  return false;
}

TimeNs ExecutorPoll::next_deadline() const noexcept {
  return busy() ? now_ns() + kLookAgainNs : kNever;
}

DeviceMember::DeviceMember(const Parts& parts, int device)
    : runtime_(parts.runtime),
      devices_(parts.runtime.devices()),
      device_(checked(devices_, device)),
      channels_(parts.channels),
      latch_(parts.latch),
      executor_(std::make_shared<DeviceExecutor>(devices_, device)),
      staging_(std::make_shared<DeviceExecutor>(devices_, device)),
      scratch_memory_(runtime_.device_heap(device), *executor_),
      builder_(with_executor(parts.builder, *executor_), scratch_memory_),
      host_channels_(*channels_, parts.first_host_lane),
      peers_(std::make_shared<MappedPeers>(runtime_, parts.topology, runtime_.device_heap(device),
                                           device)),
      scratch_(std::make_shared<ScratchPool>(&scratch_memory_)),
      pinned_(std::make_shared<ScratchPool>(&runtime_.pinned_memory())),
      device_channels_(
          std::make_shared<DeviceChannels>(DeviceChannelParts{.runtime = devices_,
                                                              .executor = *executor_,
                                                              .heap = runtime_.device_heap(device),
                                                              .peers = *peers_,
                                                              .host_channels = host_channels_},
                                           latch_)),
      collectives_(std::make_shared<CollectiveQueue>(*device_channels_, parts.lanes, latch_)),
      staging_poll_(std::make_shared<ExecutorPoll>(*staging_, latch_)) {
  channels_->expect_device_segments([peers = std::weak_ptr(peers_), latch = latch_](
                                        int peer, uint32_t segment, const SharedSegment& shared) {
    const auto held = peers.lock();
    if (held != nullptr && !held->take_segment(peer, segment, shared) && held->is_set_up()) {
      latch->report(make_failure(ErrorKind::kAborted,
                                 "this rank cannot map more memory of that rank's GPU", peer));
    }
  });
  runtime_.engine().add(device_channels_);
  runtime_.engine().add(collectives_);
  runtime_.engine().add(staging_poll_);
}

DeviceMember::~DeviceMember() { leave(); }

void DeviceMember::settle() {
  const TimeNs deadline = now_ns() + kSettleLimit;
  while (device_channels_->busy() && !collectives_->busy() && now_ns() < deadline) {
    runtime_.engine().submit(Submission::kLarge);
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void DeviceMember::leave() {
  runtime_.engine().remove(collectives_.get());
  runtime_.engine().remove(device_channels_.get());
  runtime_.engine().remove(staging_poll_.get());
}

void DeviceMember::set_up(Communicator& communicator) {
  if (peers_->is_set_up()) return;
  const std::lock_guard lock(set_up_mutex_);
  if (!peers_->is_set_up()) peers_->set_up(communicator, *executor_);
}

std::shared_ptr<Operation> DeviceMember::push(CollectiveCall call, const Plan& plan) {
  const auto ready = executor_->place_in(*call.stream);
  call.prologue = [executor = executor_, ready, first = std::move(call.prologue)] {
    executor->start_after(ready);
    if (first) first();
  };
  call.epilogue = [executor = executor_, end = call.device_end, last = std::move(call.epilogue)] {
    if (last) last();
    if (end != nullptr) end->set(executor, executor->mark());
  };
  call.keep_alive = executor_->keep(std::move(call.keep_alive));
  const auto operation = std::make_shared<Operation>();
  builder_.fill(*operation, call, plan);
  collectives_->push(operation);
  return operation;
}

std::shared_ptr<std::byte> DeviceMember::scratch(std::size_t size_bytes) const {
  const auto block = std::make_shared<Scratch>(scratch_, size_bytes);
  return {block, block->memory()};
}

// The stream of messages does nothing else, so that it may wait for the caller's stream at once.
void DeviceMember::stage_send(const std::shared_ptr<MessageOperation>& message,
                              const MessageCall& call, std::function<void()> post) {
  const auto block = std::make_shared<Scratch>(pinned_, block_bytes(message->size_bytes));
  staging_->start_after(*call.stream);
  staging_->copy(block->memory(), message->data, message->size_bytes);
  if (call.device_end != nullptr) call.device_end->set(staging_, staging_->mark());
  auto keep_alive = std::exchange(message->keep_alive, block);
  message->data = block->memory();
  staging_->when_passed([message, post = std::move(post), keep_alive = std::move(keep_alive)] {
    try {
      post();
    } catch (const CommError& error) {
      message->work->fail(error.failure());
    }
  });
}

void DeviceMember::stage_recv(MessageOperation& message, const MessageCall& call) {
  const auto block = std::make_shared<Scratch>(pinned_, block_bytes(message.size_bytes));
  const auto ready = staging_->place_in(*call.stream);
  std::byte* const target = std::exchange(message.data, block->memory());
  auto keep_alive = std::exchange(message.keep_alive, block);
  message.epilogue = [staging = staging_, block, ready, target, size_bytes = message.size_bytes,
                      end = call.device_end, keep_alive = std::move(keep_alive),
                      last = std::move(message.epilogue)] {
    staging->start_after(ready);
    staging->copy(target, block->memory(), size_bytes);
    if (last) last();
    if (end != nullptr) end->set(staging, staging->mark());
    staging->when_passed([block, keep_alive] {});
  };
}

}  // namespace fastgpu
