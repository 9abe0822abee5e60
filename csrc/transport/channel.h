// A channel carries the frames of one lane from one rank to another. Its sender opens it on first
// use. A frame is a header and a payload of size_bytes. The memory of a channel is bounded, so a
// large payload moves in pieces, as there is room. No call waits.
//
// Invariants:
//  1. Frames arrive complete, in the order in which they were first passed to try_send().
//  2. A receiver reports kClosed only after it has received everything that had arrived.
//
// Ownership: the communicator owns its channels; payloads and targets remain the caller's.
// Threading: the engine's polling thread; hang_up() any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/dtype.h"
#include "kernels/kernel.h"

namespace fastgpu {

struct SegmentSpan;

enum class Io : uint8_t {
  kMoved,    // something moved, or a frame has arrived
  kBlocked,  // nothing could move now
  kClosed,   // nothing will move any more: the peer is gone or hung up
};

// 40 bytes, so that with a flag and 16 bytes of payload it fills one cache line. Channels carry it;
// the engine gives it its meaning.
struct FrameHeader {
  uint32_t generation = 0;        // number of the membership
  uint32_t ordinal = 0;           // number of the frame in its operation, lane and direction
  uint64_t sequence = 0;          // number of the operation in its communicator
  uint64_t size_bytes = 0;        // size of the payload
  std::array<uint64_t, 2> key{};  // the packed Call, or a message's header

  bool operator==(const FrameHeader&) const = default;
};
static_assert(sizeof(FrameHeader) == 40);

// A frame to send. The caller must not change the payload until `done`.
struct Outgoing {
  FrameHeader header;
  const std::byte* payload = nullptr;
  // 1 + the ordinal of the reply: the peer's later frame that replaces the payload. Nothing else
  // uses the region in between, so the peer may write the reply there. 0: there is no reply.
  uint32_t reply = 0;
  // The receiver may copy the payload out of this process's private memory, if it can.
  bool single_copy = false;

  // The channel sets these.
  uint64_t progress = 0;  // how far the channel is; 0: the frame was not begun
  bool taken = false;     // the next frame may be sent, but the payload is still being read
  bool done = false;      // the frame has left; the payload may change
};

// How received bytes are consumed: stored, or reduced into the target.
struct Sink {
  CopyKernel store = nullptr;              // nullptr: memcpy
  ReduceKernel reduce = nullptr;           // nullptr: the bytes are stored
  ReduceBothKernel reduce_both = nullptr;  // nullptr: this reduction has none
  uint32_t element_size = 1;               // bytes; `reduce` is given whole elements
  // Reduced elements are multiplied by the factor afterwards.
  double factor = 1;
  DType dtype = DType::kFloat32;  // of elements with a factor

  bool reduces() const noexcept { return reduce != nullptr; }
  // How many of `size_bytes` received bytes can be consumed now: only whole elements are reduced.
  uint64_t takeable(uint64_t size_bytes) const noexcept {
    return reduces() ? size_bytes - size_bytes % element_size : size_bytes;
  }
  void take(std::byte* target, const std::byte* source, std::size_t size_bytes) const;
  // Reduces, and stores the result in both `target` and `source`.
  void take_both(std::byte* target, std::byte* source, std::size_t size_bytes) const;

 private:
  void reduce_and_scale(std::byte* target, const std::byte* source, std::size_t size_bytes,
                        std::byte* copy) const;
};

// A frame to receive.
struct Incoming {
  std::byte* target = nullptr;
  uint64_t size_bytes = 0;
  Sink sink = {};
  // 1 + the ordinal of this side's next frame, if that frame sends back the target with exactly the
  // content that this frame gives it. If the peer has requested that reply in place, the channel
  // may write it in the same pass. 0: there is no such frame.
  uint32_t replies_with = 0;
  // The lane's next step reduces into exactly this target. Channels of device memory may then wait
  // for that step, and take both frames at once.
  bool is_continued = false;

  // The channel sets these.
  uint64_t received_bytes = 0;
  bool done = false;

  std::byte* next() const noexcept { return target + received_bytes; }
  uint64_t left_bytes() const noexcept { return size_bytes - received_bytes; }
  // Counts bytes that something else has already put into the target.
  void advance(uint64_t piece_bytes) noexcept {
    received_bytes += piece_bytes;
    done = received_bytes == size_bytes;
  }
  // Takes the next bytes out of the channel's memory.
  void take(const std::byte* source, std::size_t piece_bytes) {
    sink.take(next(), source, piece_bytes);
    advance(piece_bytes);
  }
  void take_both(std::byte* source, std::size_t piece_bytes) {
    sink.take_both(next(), source, piece_bytes);
    advance(piece_bytes);
  }
};

class SendChannel {
 public:
  virtual ~SendChannel() = default;
  // Moves as much as there is room for. Call again with the same frame until it is done. Frames
  // leave in the order of their first call. The next frame may follow as soon as this one is
  // `taken`.
  virtual Io try_send(Outgoing& frame) = 0;
  // Call it when the peer is gone or this side closes. Nothing is sent afterwards. Any thread.
  virtual void hang_up() noexcept = 0;
};

class RecvChannel {
 public:
  virtual ~RecvChannel() = default;
  // Returns the header of the next frame once it has arrived, and repeats it until the whole frame
  // was received.
  virtual Io peek(FrameHeader& header) = 0;
  // Receives payload of the frame that peek() showed; incoming.size_bytes is that frame's size.
  // With the last byte the frame is done, and peek() shows the next one.
  virtual Io try_recv(Incoming& incoming) = 0;
  // The sender's symmetric memory at `span`, mapped as long as the result lives; nullptr if this
  // channel maps none, or if no frame from that segment has arrived. Any thread.
  virtual std::shared_ptr<std::byte> map(const SegmentSpan& /*span*/, uint64_t /*size_bytes*/) {
    return nullptr;
  }
  // Call it when the peer is gone or this side closes. Frames that have arrived can still be
  // received; then the calls return kClosed. Any thread.
  virtual void hang_up() noexcept = 0;
};

}  // namespace fastgpu
