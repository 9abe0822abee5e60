// A channel: one lane's ordered, bounded stream of frames from one rank to another, one way. The
// sender opens it, on first use. A frame is a header and size_bytes of payload; payloads move in
// pieces, as there is room. Calls never wait: they say moved, blocked or closed.
//
// Ownership: the communicator owns its channels; payload and target memory stays the caller's.
// Threading: the engine's progress thread; hang_up() may come from any thread.
// Order: frames arrive whole and in the order sent. Closed is reported by a receiver only after
// everything that had arrived was read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"

namespace fastgpu {

enum class Io : uint8_t {
  kMoved,    // something moved, or is there to be taken
  kBlocked,  // nothing could move now
  kClosed,   // nothing will move any more: the peer is gone or hung up
};

// 40 bytes, so that with a flag and 16 bytes of payload it fills one cache line. The transport
// carries it and looks only at size_bytes.
struct FrameHeader {
  uint32_t generation = 0;        // of the membership
  uint32_t ordinal = 0;           // of the frame within its operation, lane and direction
  uint64_t sequence = 0;          // of the operation within its communicator
  uint64_t size_bytes = 0;        // of the payload
  std::array<uint64_t, 2> key{};  // the packed Call, or the point-to-point header

  bool operator==(const FrameHeader&) const = default;
};
static_assert(sizeof(FrameHeader) == 40);

// A frame on its way out. This side leaves the payload as it is until done.
struct Outgoing {
  FrameHeader header;
  const std::byte* payload = nullptr;
  uint64_t progress = 0;  // the channel's own note of how far it is
  // Asks for an answer in place: 1 + the ordinal of the frame from the other side that will go
  // where this payload lies, which nobody touches meanwhile. 0: none.
  uint32_t answer = 0;
  // Is such an answer: where the other side wants it (Incoming::place).
  std::byte* place = nullptr;  // bytes before `progress` are there already
  // It is well read where it lies, also in memory of this process's own, if the receiver can.
  bool single_copy = false;
  // Set by a channel that has copied the payload to where the other side writes the answer: what
  // receives that answer must name it (Incoming::staged), and then give it back (reclaim).
  std::byte* staged = nullptr;
  bool taken = false;  // the channel has it, but reads the payload where it lies
  bool done = false;   // the frame has left; the payload may be changed
};

// What becomes of a payload as it arrives: it is stored, or reduced into what the target holds.
struct Sink {
  CopyKernel store = nullptr;              // nullptr: memcpy
  ReduceKernel reduce = nullptr;           // nullptr: the payload is stored
  ReduceBothKernel reduce_both = nullptr;  // nullptr: there is none for this reduction
  uint32_t element_size = 1;               // in bytes; kernels that reduce get whole elements

  bool reduces() const noexcept { return reduce != nullptr; }
  // What can be taken of `size_bytes`: whole elements, if they are reduced.
  uint64_t takeable(uint64_t size_bytes) const noexcept {
    return reduces() ? size_bytes - size_bytes % element_size : size_bytes;
  }
  void take(std::byte* target, const std::byte* source, std::size_t size_bytes) const;
  // Reduces by reduce_both, so that the result lies in both places.
  void take_both(std::byte* target, std::byte* source, std::size_t size_bytes) const;
};

// A frame on its way in.
struct Incoming {
  std::byte* target = nullptr;
  uint64_t size_bytes = 0;
  Sink sink = {};
  uint64_t received_bytes = 0;
  // The answer (Outgoing::answer) that the target will be once this frame is reduced into it, and
  // how to reduce into both ends at once. When the frame asks for just that answer, the channel may
  // write it so, and says that it has: `answered`. 0: nothing of the kind.
  uint32_t answers = 0;
  bool answered = false;
  // This frame is the answer to one that was staged, and is there if it was written in place.
  const std::byte* staged = nullptr;
  // Set by a channel that can write there: the frame asked for its answer in place.
  uint32_t answer = 0;
  std::byte* place = nullptr;
  bool done = false;

  std::byte* next() const noexcept { return target + received_bytes; }
  uint64_t left_bytes() const noexcept { return size_bytes - received_bytes; }
  // Counts bytes that are at the target already.
  void advance(uint64_t bytes) noexcept {
    received_bytes += bytes;
    done = received_bytes == size_bytes;
  }
  // Takes the next bytes from the channel's memory.
  void take(const std::byte* source, std::size_t bytes) {
    sink.take(next(), source, bytes);
    advance(bytes);
  }
  void take_and_answer(std::byte* source, std::size_t bytes) {
    sink.take_both(next(), source, bytes);
    answered = true;
    advance(bytes);
  }
};

class SendChannel {
 public:
  virtual ~SendChannel() = default;
  // Moves what there is room for. Call again with the same frame until it is done. Frames leave in
  // the order in which they were first offered; the next may be offered when this one is taken.
  virtual Io try_send(Outgoing& frame) = 0;
  // Takes back an Outgoing::staged whose answer was received.
  virtual void reclaim(const std::byte*) noexcept {}
  // Nothing leaves any more: the peer is gone, or this side closes. Any thread.
  virtual void hang_up() noexcept = 0;
};

class RecvChannel {
 public:
  virtual ~RecvChannel() = default;
  // The header of the next frame, when it has arrived; the same one until its payload was taken.
  virtual Io peek(FrameHeader& header) = 0;
  // Takes payload of the frame that peek showed; incoming.size_bytes is that frame's size.
  // With the last byte the frame is done and peek shows the next one.
  virtual Io try_recv(Incoming& incoming) = 0;
  // The peer is gone, or this side closes: what arrived may still be read, then kClosed. Any
  // thread.
  virtual void hang_up() noexcept = 0;
};

}  // namespace fastgpu
