// How the frames of one lane reach one peer, and what both ends of a device channel share.
//
// A device channel stands on two channels of host memory, of whatever kind connects the ranks: lane
// 2k carries what the sender of lane k says, and lane 2k + 1, the other way, what its receiver has
// read. So connections, doorbells, time-outs and lost peers are theirs.
// Ownership: everything it refers to outlives the channels. Threading: the polling thread.
#pragma once

#include <atomic>

#include "device/heap.h"
#include "engine/device/host_driven/executor.h"
#include "engine/failure_latch.h"
#include "engine/lane_run.h"

namespace fastgpu {

// The peers that map this rank's device memory, and the segments that they have shared.
class DevicePeers {
 public:
  virtual ~DevicePeers() = default;
  // Whether `peer` can map this rank's segments. If not, payloads pass through pinned memory.
  virtual bool maps(int peer) = 0;
  // Sends the segment's descriptor to the peer, which passes it to PeerDeviceSegments::add(). Is
  // called before the first frame from the segment, once for each channel.
  virtual void share(int peer, uint32_t segment) = 0;
  // What the peer has passed.
  virtual const PeerDeviceSegments& segments(int peer) = 0;
};

// What the channels of one rank have in common.
struct DeviceGroup {
  DeviceRuntime& runtime;
  DeviceExecutor& executor;
  const DeviceHeap& heap;
  DevicePeers& peers;
  ChannelSource& host_channels;
  FailureLatch& latch;
  uint64_t chunk_bytes;
  // Frames that were not sent to the end, or acknowledged; receives whose work is not done, or that
  // may wait for a chunk.
  std::atomic<int64_t> pending{0};
};

// Latches a failure of this rank's own device. The engine would blame the peer for what a channel
// raises.
template <typename Call>
Io latch_device_failure(DeviceGroup& group, Call call) {
  try {
    return call();
  } catch (const DeviceError& error) {
    group.latch.report(error.failure());
    return Io::kBlocked;
  }
}

struct Route {
  DeviceGroup& group;
  const int peer;
  const int lane;

  // nullptr: not connected yet.
  SendChannel* posts_out() const { return group.host_channels.sender(peer, 2 * lane); }
  RecvChannel* posts_in() const { return group.host_channels.receiver(peer, 2 * lane); }
  SendChannel* acknowledgements_out() const {
    return group.host_channels.sender(peer, 2 * lane + 1);
  }
  RecvChannel* acknowledgements_in() const {
    return group.host_channels.receiver(peer, 2 * lane + 1);
  }
};

}  // namespace fastgpu
