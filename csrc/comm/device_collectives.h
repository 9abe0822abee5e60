// The collectives of a communicator on tensors of one GPU: a stream, channels of device memory on
// top of those of host memory, a queue, and the kernels that need no host (DeviceLanes).
//
// set_up() is a collective call, made before the first collective: the ranks exchange the abilities
// and the costs of their GPUs (mapped_peers.h).
//
// Ownership: shared by the communicator, the engine and ends of operations (DeviceEnd). Runtime,
// topology and channels outlive it. Threading: all calls, any thread.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "comm/calls.h"
#include "comm/device_lanes.h"
#include "comm/mapped_peers.h"
#include "comm/operation_builder.h"
#include "comm/planner.h"
#include "engine/collective_queue.h"
#include "engine/device/host_driven/channels.h"

namespace fastgpu {

class ChannelSet;

// The parts of a communicator that collectives on its GPU use.
struct DeviceParts {
  Runtime& runtime;
  const Topology& topology;
  std::shared_ptr<ChannelSet> channels;
  const Options& options;
  const Planner& planner;  // of collectives on the CPU
  std::shared_ptr<FailureLatch> latch;
  OperationBuilder::Config builder;
};

class DeviceCollectives : public std::enable_shared_from_this<DeviceCollectives> {
 public:
  // Adds itself to the engine. leave() must follow.
  static std::shared_ptr<DeviceCollectives> create(const DeviceParts& parts, int device);
  DeviceCollectives(const DeviceParts& parts, int device);
  DeviceCollectives(const DeviceCollectives&) = delete;
  DeviceCollectives& operator=(const DeviceCollectives&) = delete;

  // Every rank calls it. Raises InvalidArgumentError, on all ranks, if a rank's GPU cannot be used.
  void set_up(Communicator& communicator);
  bool is_set_up() const noexcept { return is_set_up_.load(); }
  // For tests: whether the peer reads this rank's memory in place.
  bool maps(int peer) { return peers_.maps(peer); }

  // Adds the operation to the queue. Raises InvalidArgumentError for a call that cannot be made.
  std::shared_ptr<Operation> push(CollectiveCall call);
  // Puts the call into the graph that captures its stream. Raises InvalidArgumentError if the host
  // would have to take part in every replay.
  void capture(const CollectiveCall& call);
  // For hooks of calls: copies between tensors and scratch(), in the order of the collectives.
  DeviceExecutor& executor() noexcept { return executor_; }
  std::shared_ptr<std::byte> scratch(std::size_t size_bytes) const;

  bool busy() const noexcept { return queue_.busy(); }
  // Whether frames or acknowledgements are still under way, which may outlast their operations, or
  // kernels have not ended.
  bool has_pending_frames() const noexcept { return channels_.busy() || lanes_.watch().busy(); }
  const CollectiveQueue& queue() const noexcept { return queue_; }
  // Takes itself out of the engine, and waits for the GPU. The communicator's latch must be closed
  // by then.
  void leave();

 private:
  // Lanes of the communicator's channels, counted from `first`.
  class LaneRange final : public ChannelSource {
   public:
    LaneRange(ChannelSource& channels, int first) : channels_(channels), first_(first) {}
    SendChannel* sender(int peer, int lane) override {
      return channels_.sender(peer, first_ + lane);
    }
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

  std::shared_ptr<Operation> make_host_driven(CollectiveCall& call);

  Runtime& runtime_;
  const std::shared_ptr<ChannelSet> host_channels_;
  const std::shared_ptr<FailureLatch> latch_;
  const Planner& host_planner_;
  Planner planner_;
  DeviceExecutor executor_;
  DeviceScratchMemory scratch_memory_;
  const std::shared_ptr<ScratchPool> scratch_;
  const OperationBuilder builder_;
  MappedPeers peers_;
  LaneRange channel_range_;
  DeviceChannels channels_;
  DeviceLanes lanes_;
  CollectiveQueue queue_;
  std::mutex set_up_mutex_;
  std::atomic<bool> is_set_up_{false};  // written under set_up_mutex_
};

}  // namespace fastgpu
