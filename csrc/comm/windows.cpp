#include "comm/windows.h"

#include <utility>

#include "base/error.h"
#include "comm/channel_set.h"
#include "comm/topology.h"
#include "engine/failure_latch.h"
#include "engine/messages/message_queue.h"

namespace fastgpu {

Windows::Windows(const Topology& topology, std::shared_ptr<ChannelSet> channels, int lane,
                 std::shared_ptr<MessageQueue> messages, std::shared_ptr<FailureLatch> latch)
    : topology_(topology),
      channels_(std::move(channels)),
      lane_(lane),
      messages_(std::move(messages)),
      latch_(std::move(latch)) {}

void Windows::open(uint32_t window, WindowMemory memory) {
  messages_->windows().add(window, std::move(memory));
}

void Windows::close(uint32_t window) { messages_->windows().remove(window); }

bool Windows::shares_memory_with(int peer) const {
  return topology_.addresses[static_cast<std::size_t>(peer)].shared_memory;
}

std::shared_ptr<std::byte> Windows::map(int peer, const SegmentSpan& span,
                                        uint64_t size_bytes) const {
  RecvChannel* const channel = channels_->receiver(peer, lane_);
  return channel == nullptr ? nullptr : channel->map(span, size_bytes);
}

void Windows::check_peer(int peer, const std::string& op) const {
  if (channels_->presence(peer) != Presence::kHere) {
    latch_->report(make_failure(ErrorKind::kPeerLost,
                                "the connection to rank " + std::to_string(peer) + " is closed",
                                peer, op));
  }
  latch_->raise_if_failed();
}

void Windows::fail_revoked(const std::string& op) const {
  latch_->report(make_failure(
      ErrorKind::kAborted,
      "puts may be lost: an operation of another group failed and revoked the window's symmetric "
      "memory; give groups that run at the same time tensors of their own from "
      "fastgpu_comm.empty()",
      kNoRank, op));
  raise(*latch_->failure());
}

}  // namespace fastgpu
