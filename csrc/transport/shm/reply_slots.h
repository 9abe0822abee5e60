// Replies that are written in place (docs/wire.md), at one rank of a pair: the reply slots of this
// rank, and the requests of its peer.
//
// A schedule may show that a payload will be replaced by a frame that the peer sends later in the
// same operation, its reply: the values leave, and their sum comes back. A sender that wants the
// reply in place says so in the slot line. The peer then writes the reply over the payload, so that
// each cache line changes cores twice instead of four times, and sends a frame without payload. The
// payload is in a reply slot of the sender's ring, or in the sender's symmetric memory.
//
// Invariants:
//  1. A reply slot is free, or reserved for one reply. It is freed when that reply has been
//     received, even if the reply's payload was not written into the slot.
//  2. A frame is identified by its sequence, ordinal and size, so an operation never uses the
//     requests and reply slots of an earlier one. Reply slots of a failed operation stay reserved,
//     because the peer might still write there. Requests are dropped at the first request of a
//     later operation.
//
// Ownership: shared by the sender and the receiver of one end; keeps the ring mapped.
// Threading: one thread at a time, as the channels of a lane.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "transport/shm/ring.h"

namespace fastgpu {

struct FrameId {
  uint64_t sequence = 0;
  uint32_t ordinal = 0;
  uint64_t size_bytes = 0;

  bool operator==(const FrameId&) const = default;
};
inline FrameId id_of(const FrameHeader& header) {
  return {header.sequence, header.ordinal, header.size_bytes};
}
// The reply to the frame `header`, whose Outgoing::reply is `reply`.
inline FrameId reply_to(const FrameHeader& header, uint32_t reply) {
  return {header.sequence, reply - 1, header.size_bytes};
}

// The peer requests that this rank write the payload of the frame `reply` to `memory`.
struct ReplyRequest {
  FrameId reply;
  std::byte* memory = nullptr;
  bool written = false;  // the payload is written; the frame itself has yet to be sent
};

class ReplySlots {
 public:
  // Sets the ring by which this end sends, which has the reply slots. Call it before reserve().
  void send_by(std::shared_ptr<const ShmRing> ring);
  // Reserves a reply slot for the payload that `reply` will replace; nullopt if none is free. Does
  // not wait for a free one, because two peers that both waited would deadlock.
  std::optional<uint32_t> reserve(const FrameId& reply);
  // The reply slot that is reserved for a frame; nullptr: none.
  const std::byte* find(const FrameId& reply) const noexcept {
    return reserved_ != 0 ? find_reserved(reply) : nullptr;
  }
  void release(const FrameId& reply) noexcept {
    if (reserved_ != 0) release_reserved(reply);
  }

  // What the peer has requested.
  void add(const ReplyRequest& request);
  // Removes and returns the request for a frame.
  std::optional<ReplyRequest> take(const FrameId& reply) {
    return requests_.empty() ? std::nullopt : take_request(reply);
  }

 private:
  const std::byte* find_reserved(const FrameId& reply) const noexcept;
  void release_reserved(const FrameId& reply) noexcept;
  std::optional<ReplyRequest> take_request(const FrameId& reply);

  std::shared_ptr<const ShmRing> ring_;
  std::array<FrameId, kMostReplySlots> replies_;  // by slot; valid where it is reserved
  uint32_t reserved_ = 0;                         // a bit per slot
  std::vector<ReplyRequest> requests_;            // all for the same operation
};

}  // namespace fastgpu
