// The layout of a shared-memory ring: a page of words about the ring, a control line a slot,
// buffers for payload, and stages, where payloads lie that are answered in place.
//
// Slot n (counted for ever, it lies at n mod slots) holds the n-th piece that was sent. Its flag is
// 8 (n + 1) plus a SlotKind, which says what else there is in it. The first slot of a frame holds
// the frame's header. How a frame is cut follows from its size, so both ends know it.
//
// Invariants (each word has one writer; all hold on weakly ordered CPUs, too):
//  1. The sender writes slot n only after it read, with acquire, consumed > n - slots: whatever the
//     receiver read there before is over.
//  2. The sender stores the flag of slot n last, with release; the receiver reads a slot only after
//     it loaded that flag with acquire. So header and payload, also payload in symmetric memory,
//     are seen whole.
//  3. The receiver stores `consumed` with release after its last read of the slots, and of the
//     symmetric memory, that it covers. It may lag behind by less than a quarter of the ring; never
//     when a slot named symmetric memory, for then the sender waits for just that.
//  4. Each end, after it published, fences and then looks whether the other may sleep (see
//     doorbell.h). The receiver looks only if the ring was full: else nobody waits for room.
//  5. An end stores its `closed` with release after all that it published. The receiver reads what
//     is there and only then reports it. Bytes taken from symmetric memory count only if, after
//     they were read, nobody had closed: until then the sender kept them as they were.
//  6. A buffer, of this ring or of the one the other way, is held by one end, or the receiver's to
//     read by a slot that names it, or given back: its number in `returns`, counted by
//     `given_back`, which the receiver stores before `consumed`, and the sender loads after it
//     (transport/credits.h).
//  7. A stage is the sender's until it publishes a slot that names it, then the receiver's, until
//     that one's answer is published the other way: the sum goes back over the lines that it came
//     on, which then change cores twice, not four times.
//
// A broken or hostile peer can make frames nonsense, but not make this process read or write
// outside the mapping, save for the peer's own memory: sizes are sealed into the file, and read
// once, at the start, two rings whose buffers change hands have them of one size, and whose memory
// is read the kernel says. Ownership: one mapping each end.
// Threading: the channel's, close() from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/unique_fd.h"
#include "memory/symmetric_heap.h"
#include "transport/channel.h"
#include "transport/shm/process_memory.h"
#include "transport/shm/shm.h"

namespace fastgpu {

inline constexpr std::size_t kInlineBytes = 16;
// What one call moves where a payload lies elsewhere, so that other channels get their turn.
inline constexpr uint64_t kReferencePieceBytes = 256 * 1024;
// A frame that fits few slots is cut smaller, so that the receiver copies out one piece while the
// sender copies in the next.
inline constexpr uint64_t kLeastPieceBytes = 8192;
inline constexpr uint64_t kPiecesWanted = 2;

// One cache line: a frame of up to 16 bytes costs one transfer from core to core.
struct alignas(64) SlotControl {
  std::atomic<uint64_t> flag;
  FrameHeader header;
  std::array<std::byte, kInlineBytes> inline_bytes;  // or what the slot's kind says
};
static_assert(sizeof(SlotControl) == 64 && sizeof(SegmentSpan) <= kInlineBytes);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

enum class SlotKind : uint8_t {
  kBytes,       // in the slot, or in a buffer: inline_bytes are a BufferName
  kReference,   // in symmetric memory: inline_bytes are a SegmentSpan
  kStaged,      // in a stage, for an answer: inline_bytes are a StageSpan
  kSingleCopy,  // in the sender's own memory: inline_bytes are a SingleCopySpan
  kPlaced,      // there already, as the answer to one that was referred to or staged
};
inline constexpr uint64_t flag_of(uint64_t slot, SlotKind kind = SlotKind::kBytes) {
  return 8 * (slot + 1) + static_cast<uint64_t>(kind);
}
inline constexpr SlotKind kind_of(uint64_t flag) { return static_cast<SlotKind>(flag % 8); }

// A payload buffer, as the sender of the slot, or who gets the buffer back, knows it.
struct BufferName {
  uint32_t buffer = 0;
  uint32_t of_receiver = 0;  // 1: of the ring the other way, 0: of this one
};
inline constexpr uint8_t pack(BufferName name) {
  return static_cast<uint8_t>(2 * name.buffer + name.of_receiver);
}
inline constexpr BufferName unpack(uint8_t packed) {
  return {.buffer = packed / 2U, .of_receiver = packed % 2U};
}
// At least as many as two rings have buffers.
inline constexpr uint64_t kReturns = 128;

struct SingleCopySpan {
  const std::byte* memory = nullptr;  // in the sender's process
};

struct StageSpan {
  uint32_t stage = 0;
  uint32_t answer = 0;  // as in SegmentSpan
};

// Lines apart by two, because CPUs fetch them in pairs.
struct RingWords {
  alignas(128) uint64_t magic;
  uint32_t slots;
  uint32_t slot_bytes;
  uint32_t stages;
  uint32_t stage_bytes;
  ProcessMark sender;
  alignas(128) std::atomic<uint64_t> consumed;  // slots; the receiver's, as the next two
  std::atomic<uint64_t> given_back;             // buffers
  std::array<uint8_t, kReturns> returns;        // the n-th that was given back, at n mod kReturns
  alignas(128) std::atomic<uint32_t> sender_closed;
  std::atomic<uint32_t> receiver_closed;
  alignas(128) std::atomic<uint32_t> reads_sender;  // the receiver can, so payloads may lie there
};
inline constexpr uint64_t kRingMagic = 0x3330676e69726766;  // "fgring03"

// As many again as can be under way, so that an end can keep what it reads before it hears that
// what it sent was read.
inline constexpr uint32_t buffers_of(const ShmRingConfig& config) { return 2 * config.slots; }

class ShmRing {
 public:
  // Raises RendezvousError when the file is not a sealed ring.
  explicit ShmRing(const UniqueFd& fd);
  ~ShmRing();
  ShmRing(const ShmRing&) = delete;
  ShmRing& operator=(const ShmRing&) = delete;

  uint32_t slots() const noexcept { return config_.slots; }
  RingWords& words() const noexcept { return *reinterpret_cast<RingWords*>(base_); }
  SlotControl& control(uint64_t slot) const noexcept { return controls_[slot & mask_]; }
  uint64_t buffer_bytes() const noexcept { return config_.slot_bytes; }
  uint32_t buffers() const noexcept { return buffers_of(config_); }
  std::byte* buffer(uint64_t n) const noexcept { return buffers_ + n * config_.slot_bytes; }
  uint32_t stages() const noexcept { return config_.stages; }
  uint64_t stage_bytes() const noexcept { return config_.stage_bytes; }
  std::byte* stage(uint64_t n) const noexcept { return stages_ + n * config_.stage_bytes; }
  // Bytes of a frame of `size_bytes` that go into a slot; the last slot may hold less.
  uint64_t piece_bytes(uint64_t size_bytes) const noexcept;
  bool closed() const noexcept;

 private:
  ShmRingConfig config_;
  uint64_t mask_ = 0;
  std::size_t mapped_bytes_ = 0;
  std::byte* base_ = nullptr;
  SlotControl* controls_ = nullptr;
  std::byte* buffers_ = nullptr;
  std::byte* stages_ = nullptr;
};

}  // namespace fastgpu
