// The windows of a communicator. A window is memory on each rank for one-sided writes (puts) by
// other ranks. It has the same number on every rank. If this rank has mapped the peer's window, a
// put is a copy; else it is a message (MessageCall::put_offset_bytes). A signal is an empty
// message.
//
// Ownership: the communicator's. Thread safety: all calls, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/messages/window_table.h"
#include "memory/symmetric_heap.h"

namespace fastgpu {

class ChannelSet;
class FailureLatch;
class MessageQueue;
struct Topology;

class Windows {
 public:
  // `lane` is the lane of point-to-point messages.
  Windows(const Topology& topology, std::shared_ptr<ChannelSet> channels, int lane,
          std::shared_ptr<MessageQueue> messages, std::shared_ptr<FailureLatch> latch);

  // Lets the peers put into the window. Call it before any peer does.
  void open(uint32_t window, WindowMemory memory);
  void close(uint32_t window);

  // Whether the peer is on this host.
  bool shares_memory_with(int peer) const;
  // The peer's symmetric memory at `span`, mapped as long as the result lives; nullptr if no frame
  // from that segment has arrived from the peer. Raises PeerLostError if the span is outside the
  // segment.
  std::shared_ptr<std::byte> map(int peer, const SegmentSpan& span, uint64_t size_bytes) const;

  // Call before `op` accesses the peer's memory. Fails the group if the peer has left or is lost,
  // and raises the failure if the group has failed.
  void check_peer(int peer, const std::string& op) const;
  // Fails the group because the memory of this rank's window was revoked; raises the failure.
  [[noreturn]] void fail_revoked(const std::string& op) const;

 private:
  const Topology& topology_;
  const std::shared_ptr<ChannelSet> channels_;
  const int lane_;
  const std::shared_ptr<MessageQueue> messages_;
  const std::shared_ptr<FailureLatch> latch_;
};

}  // namespace fastgpu
