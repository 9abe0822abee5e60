// What a communicator has for tensors of a GPU: a queue of collectives with channels of device
// memory, and the staging of messages in pinned memory. A communicator uses one GPU; it makes this
// with its first call for that GPU.
//
// A Work is done when all of its operation's work is enqueued. DeviceEnd says where that work ends.
//
// Ownership: shared by its communicator and by calls under way; Runtime and topology outlive it.
// Threading: all calls, any thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "comm/calls.h"
#include "comm/mapped_peers.h"
#include "comm/operation_builder.h"
#include "comm/planner.h"
#include "engine/collective_queue.h"
#include "engine/device/host_driven/channels.h"
#include "engine/messages/message.h"

namespace fastgpu {

class ChannelSet;

// Lanes of a communicator, counted from `first`.
class LaneRange final : public ChannelSource {
 public:
  LaneRange(ChannelSource& channels, int first) : channels_(channels), first_(first) {}
  SendChannel* sender(int peer, int lane) override { return channels_.sender(peer, first_ + lane); }
  RecvChannel* receiver(int peer, int lane) override {
    return channels_.receiver(peer, first_ + lane);
  }
  bool departed(int peer) override { return channels_.departed(peer); }
  Presence presence(int peer) const override { return channels_.presence(peer); }
  uint64_t version() const override { return channels_.version(); }

 private:
  ChannelSource& channels_;
  const int first_;
};

// Lets the engine ask an executor how far its stream is, as long as calls wait for that.
class ExecutorPoll final : public Pollable {
 public:
  ExecutorPoll(DeviceExecutor& executor, std::shared_ptr<FailureLatch> latch)
      : executor_(executor), latch_(std::move(latch)) {}
  bool poll() noexcept override;
  bool busy() const noexcept override { return !has_failed_.load() && executor_.has_calls(); }
  void expire(TimeNs /*now*/) noexcept override {}
  TimeNs next_deadline() const noexcept override;

 private:
  DeviceExecutor& executor_;
  const std::shared_ptr<FailureLatch> latch_;
  std::atomic<bool> has_failed_{false};
};

class DeviceMember {
 public:
  struct Parts {
    Runtime& runtime;
    const Topology& topology;
    std::shared_ptr<ChannelSet> channels;
    int lanes = 1;
    int first_host_lane = 0;  // of twice as many
    std::shared_ptr<FailureLatch> latch;
    OperationBuilder::Config builder;
  };

  // Raises InvalidArgumentError if there is no such GPU, or no runtime for GPUs.
  DeviceMember(const Parts& parts, int device);
  ~DeviceMember();
  DeviceMember(const DeviceMember&) = delete;
  DeviceMember& operator=(const DeviceMember&) = delete;

  int device() const noexcept { return device_; }
  // A collective call before the first collective; then does nothing. See MappedPeers::set_up().
  void set_up(Communicator& communicator);

  void check(const CollectiveCall& call) const { builder_.check(call); }
  // Adds the operation to the queue.
  std::shared_ptr<Operation> push(CollectiveCall call, const Plan& plan);

  // Copies the message to pinned memory, then calls `post`, which sends it.
  void stage_send(const std::shared_ptr<MessageOperation>& message, const MessageCall& call,
                  std::function<void()> post);
  // Makes the message arrive in pinned memory, and its epilogue copy it from there.
  void stage_recv(MessageOperation& message, const MessageCall& call);

  DeviceExecutor& executor() noexcept { return *executor_; }
  std::shared_ptr<std::byte> scratch(std::size_t size_bytes) const;

  bool busy() const noexcept { return collectives_->busy() || staging_poll_->busy(); }
  const CollectiveQueue& collectives() const noexcept { return *collectives_; }
  // Waits until the peers know what this rank has read and have what it sent, at most two seconds:
  // operations are done earlier.
  void settle();
  // Takes everything out of the engine. The communicator's latch is closed by now.
  void leave();

 private:
  Runtime& runtime_;
  DeviceRuntime& devices_;
  const int device_;
  const std::shared_ptr<ChannelSet> channels_;
  const std::shared_ptr<FailureLatch> latch_;
  const std::shared_ptr<DeviceExecutor> executor_;  // of the collectives
  const std::shared_ptr<DeviceExecutor> staging_;   // of the messages
  DeviceScratchMemory scratch_memory_;
  const OperationBuilder builder_;
  LaneRange host_channels_;
  const std::shared_ptr<MappedPeers> peers_;
  const std::shared_ptr<ScratchPool> scratch_;
  const std::shared_ptr<ScratchPool> pinned_;
  const std::shared_ptr<DeviceChannels> device_channels_;
  const std::shared_ptr<CollectiveQueue> collectives_;
  const std::shared_ptr<ExecutorPoll> staging_poll_;
  std::mutex set_up_mutex_;
};

}  // namespace fastgpu
