// The channels of a rank whose tensors are in device memory. They carry the lanes of a
// CollectiveQueue whose tasks have the group's DeviceExecutor. The engine polls them, too: a post
// may go out after its step, and an acknowledgement after its operation.
//
// An operation is complete for the host when all of its work is enqueued, and peers have read its
// frames. The work itself may still run: a user of the results orders its stream after it
// (DeviceExecutor::finish_before()). Failures of such work are latched when they are found.
//
// Ownership: everything that the constructor takes outlives the channels. Threading: the polling
// thread; busy() any thread.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <utility>

#include "engine/device/host_driven/receiver.h"
#include "engine/device/host_driven/sender.h"
#include "engine/engine.h"
#include "engine/failure_latch.h"

namespace fastgpu {

inline constexpr uint64_t kDefaultChunkBytes = uint64_t{1} << 20;

struct DeviceChannelParts {
  DeviceRuntime& runtime;
  DeviceExecutor& executor;
  const DeviceHeap& heap;
  DevicePeers& peers;
  // Channels of host memory, twice as many lanes as these have (route.h).
  ChannelSource& host_channels;
  uint64_t chunk_bytes = kDefaultChunkBytes;  // a multiple of 16, at most kMostChunkBytes
};

class DeviceChannels final : public ChannelSource, public Pollable {
 public:
  DeviceChannels(const DeviceChannelParts& parts, std::shared_ptr<FailureLatch> latch);

  SendChannel* sender(int peer, int lane) override;
  RecvChannel* receiver(int peer, int lane) override;
  bool departed(int peer) override { return group_.host_channels.departed(peer); }
  Presence presence(int peer) const override { return group_.host_channels.presence(peer); }
  uint64_t version() const override { return group_.host_channels.version(); }

  bool poll() noexcept override;
  bool busy() const noexcept override {
    return group_.pending.load() > 0 || (!device_failed_.load() && group_.executor.has_calls());
  }
  void expire(TimeNs /*now*/) noexcept override {}
  TimeNs next_deadline() const noexcept override;

 private:
  template <typename Channel>
  using ByRoute = std::map<std::pair<int, int>, std::unique_ptr<Channel>>;
  template <typename Channel>
  Channel* find(ByRoute<Channel>& channels, int peer, int lane);
  template <typename Channel>
  bool pump(ByRoute<Channel>& channels);
  void drop() noexcept;
  void release_kept() noexcept;

  DeviceGroup group_;
  const std::shared_ptr<FailureLatch> latch_;
  std::atomic<bool> device_failed_{false};  // memory is kept until the executor ends
  ByRoute<DeviceSender> senders_;           // by peer and lane
  ByRoute<DeviceReceiver> receivers_;
};

}  // namespace fastgpu
