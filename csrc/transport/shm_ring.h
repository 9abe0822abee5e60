// The layout of a shared-memory ring: a page of words about the ring, a control line a slot, the
// slots' payload, and stages, where payloads lie that are answered in place.
//
// Slot n (counted for ever, it lies at n mod slots) holds the n-th piece that was sent. Its flag is
// 8 (n + 1) plus a SlotKind: whether the slot holds bytes, or says where they lie. The first slot
// of a frame holds the frame's header, the others only bytes. How a frame is cut follows from its
// size, so both ends know it.
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
//  6. A stage is the sender's until it publishes a slot that names it, then the receiver's, until
//     that one's answer is published the other way: the sum goes back over the lines that it came
//     on, which then change cores twice, not four times.
//
// A broken or hostile peer can make frames nonsense, but not make this process read or write
// outside the mapping, save for the peer's own memory: sizes are sealed into the file, and read
// once, at the start, and whose memory is read the kernel says. Ownership: one mapping each end.
// Threading: the channel's, close() from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/unique_fd.h"
#include "transport/channel.h"
#include "transport/process_memory.h"
#include "transport/segment.h"
#include "transport/shm.h"

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
  std::array<std::byte, kInlineBytes> inline_bytes;  // or a SegmentSpan
};
static_assert(sizeof(SlotControl) == 64 && sizeof(SegmentSpan) <= kInlineBytes);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

enum class SlotKind : uint8_t {
  kBytes,      // in the slot
  kReference,  // in symmetric memory: inline_bytes are a SegmentSpan
  kStaged,     // in a stage, for an answer: inline_bytes are a StageSpan
  kPrivate,    // in the sender's own memory: inline_bytes are a PrivateSpan
  kPlaced,     // there already, as the answer to one that was referred to or staged
};
inline constexpr uint64_t flag_of(uint64_t slot, SlotKind kind = SlotKind::kBytes) {
  return 8 * (slot + 1) + static_cast<uint64_t>(kind);
}
inline constexpr SlotKind kind_of(uint64_t flag) { return static_cast<SlotKind>(flag % 8); }

struct PrivateSpan {
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
  alignas(128) std::atomic<uint64_t> consumed;  // slots; the receiver's
  alignas(128) std::atomic<uint32_t> sender_closed;
  std::atomic<uint32_t> receiver_closed;
  alignas(128) std::atomic<uint32_t> reads_sender;  // the receiver can, so payloads may lie there
};
inline constexpr uint64_t kRingMagic = 0x3230676e69726766;  // "fgring02"

class ShmRing {
 public:
  // Raises RendezvousError when the file is not a sealed ring.
  explicit ShmRing(const UniqueFd& fd);
  ~ShmRing();
  ShmRing(const ShmRing&) = delete;
  ShmRing& operator=(const ShmRing&) = delete;

  uint64_t slots() const noexcept { return config_.slots; }
  RingWords& words() const noexcept { return *reinterpret_cast<RingWords*>(base_); }
  SlotControl& control(uint64_t slot) const noexcept { return controls_[slot & mask_]; }
  // Of the n-th slot that has one: so frames without payload between two with do not make the next
  // one go to other lines. There are as many as slots, so it is free where a slot is.
  std::byte* payload(uint64_t n) const noexcept {
    return payloads_ + (n & mask_) * config_.slot_bytes;
  }
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
  std::byte* payloads_ = nullptr;
  std::byte* stages_ = nullptr;
};

}  // namespace fastgpu
