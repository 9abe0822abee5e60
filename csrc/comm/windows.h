// The windows of a communicator. A window is memory on each rank that the other ranks write without
// its help; its number is the same on every rank. A put to another rank is a copy where this rank
// has mapped the peer's window, else a message (MessageCall::put_offset_bytes). A signal is a
// message without content.
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
  // `lane` is the messages'.
  Windows(const Topology& topology, std::shared_ptr<ChannelSet> channels, int lane,
          std::shared_ptr<MessageQueue> messages, std::shared_ptr<FailureLatch> latch);

  // From now on the peers may put into the window; it must be open before they do.
  void open(uint32_t window, WindowMemory memory);
  void close(uint32_t window);

  // Whether the peer is on this host.
  bool shares_memory_with(int peer) const;
  // The peer's symmetric memory at `span`, mapped as long as the result lives; nullptr if no
  // message from that segment has come from the peer by reference. Raises PeerLostError if the span
  // is outside the segment.
  std::shared_ptr<std::byte> map(int peer, const SegmentSpan& span, uint64_t size_bytes) const;

  // For `op`, which touches the memory of a peer without its help: fails the group if the peer has
  // left or is lost, and raises the failure if the group has failed.
  void check_peer(int peer, const std::string& op) const;
  // Fails the group because the memory of its window was revoked, and raises the failure.
  [[noreturn]] void fail_revoked(const std::string& op) const;

 private:
  const Topology& topology_;
  const std::shared_ptr<ChannelSet> channels_;
  const int lane_;
  const std::shared_ptr<MessageQueue> messages_;
  const std::shared_ptr<FailureLatch> latch_;
};

}  // namespace fastgpu
