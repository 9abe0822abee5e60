// How the frames of one lane reach one peer, and what both ends of a device channel share.
//
// A device channel stands on two channels of host memory, of whatever kind connects the ranks: lane
// 2k carries the posts of lane k's sender, and lane 2k + 1 the acknowledgements of its receiver. So
// these channels take care of connections, doorbells, time-outs and lost peers.
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
  // Sends the segment's descriptor to the peer, which calls PeerDeviceSegments::add(). Each channel
  // calls it once, before its first frame from the segment.
  virtual void share(int peer, uint32_t segment) = 0;
  // The segments that the peer has shared.
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
  // Frames that are not sent to the end or not acknowledged, and receives whose work is not done or
  // that may wait for a chunk.
  std::atomic<int64_t> pending{0};
};

// Latches a failure of this rank's own device. If the channel raised it, the engine would blame the
// peer.
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
