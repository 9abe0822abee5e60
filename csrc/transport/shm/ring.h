// The layout of a shared-memory ring (docs/wire.md): words about the ring, a slot line per slot,
// payload buffers, and reply slots, which hold payloads whose reply is to be written in place.
//
// Slots are counted from 0 for the life of the ring. Slot n is stored in line n mod slots. A frame
// takes one slot, or one per piece when it is copied through buffers. Its first slot carries the
// header, and the SlotKind that says where the payload is. The size of a frame determines how it is
// cut into pieces, so both ends know it.
//
// Invariants (each word has one writer; all of them hold on weakly ordered CPUs, too):
//  1. The sender writes slot n only after it has read, with acquire, consumed > n - slots. So the
//     receiver has finished reading what the line held before.
//  2. The sender stores the flag of slot n last, with release. The receiver reads a slot and its
//     payload, wherever that is, only after it has loaded the flag with acquire.
//  3. The receiver stores `consumed` with release after its last read of the slots that it covers
//     and of their payloads. It may leave fewer than max(slots / 4, 1) slots unreported, and none
//     after a payload in the sender's memory, because the sender waits until that was read.
//  4. After publishing, each end executes a fence and then checks whether the other may sleep
//     (doorbell.h). The receiver checks only if the ring was full, or if the payload was in the
//     sender's memory: otherwise the sender does not wait.
//  5. An end stores its `closed` word with release after everything that it has published. A
//     receiver takes what has arrived before it reports the close. Bytes read from the sender's
//     memory count only if neither end had closed after the read: until then they were unchanged.
//  6. A buffer is held by one end, or named by a published slot that was not yet consumed, or named
//     in `returns`. The receiver stores `returned` before `consumed`; the sender loads it after
//     `consumed` (buffer_credits.h).
//  7. A reply slot is the sender's until a published slot names it. From then on it is the
//     receiver's, until that publishes the reply on the other ring (reply_slots.h).
//
// A broken or hostile peer can send nonsense, but it cannot make this process read or write outside
// its mappings of the ring and of that peer's own memory. The sizes are in a sealed file and are
// read once, two rings that share buffers must have buffers of one size, and whose memory may be
// read is known from the kernel.
// Ownership: each end owns its mapping. Threading: one thread at a time; closed() any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/unique_fd.h"
#include "transport/channel.h"
#include "transport/shm/process_memory.h"
#include "transport/shm/shm.h"

namespace fastgpu {

inline constexpr std::size_t kInlineBytes = 16;
// One call moves at most this much of a payload that is not in buffers, so that other channels are
// polled in between.
inline constexpr uint64_t kUnbufferedCallBytes = 256 * 1024;
// A frame that would fit into few buffers is cut into smaller pieces, so that the receiver copies
// out one piece while the sender copies in the next.
inline constexpr uint64_t kLeastPieceBytes = 8192;
inline constexpr uint64_t kPiecesWanted = 2;

// One cache line: a frame of up to 16 bytes costs one transfer between cores.
struct alignas(64) SlotLine {
  std::atomic<uint64_t> flag;
  FrameHeader header;
  std::array<std::byte, kInlineBytes> inline_bytes;  // their meaning depends on the SlotKind
};
static_assert(sizeof(SlotLine) == 64);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// Where the payload of a frame is, and what the inline bytes hold.
enum class SlotKind : uint8_t {
  kBytes,           // up to 16 bytes: in the inline bytes; else in buffers: a BufferName
  kReference,       // in the sender's symmetric memory: a ReferenceSpan
  kReplySlot,       // in a reply slot of this ring: a ReplySlotSpan
  kSingleCopy,      // in the sender's private memory: a SingleCopySpan
  kWrittenInPlace,  // at its destination already, as the reply to kReference or kReplySlot: nothing
};
inline constexpr uint64_t flag_of(uint64_t slot, SlotKind kind = SlotKind::kBytes) {
  return 8 * (slot + 1) + static_cast<uint64_t>(kind);
}
inline constexpr SlotKind kind_of(uint64_t flag) { return static_cast<SlotKind>(flag % 8); }

// A payload buffer, as a slot line names it.
struct BufferName {
  uint32_t buffer = 0;
  uint32_t of_receiver = 0;  // 0: of the ring that holds the line; 1: of the receiver's other ring
};
inline constexpr uint8_t pack(BufferName name) {
  return static_cast<uint8_t>(2 * name.buffer + name.of_receiver);
}
inline constexpr BufferName unpack(uint8_t packed) {
  return {.buffer = packed / 2U, .of_receiver = packed % 2U};
}
// At least as many as two rings have buffers.
inline constexpr uint64_t kReturns = 128;

struct ReferenceSpan {
  uint32_t segment = 0;
  uint32_t reply = 0;  // Outgoing::reply
  uint64_t offset_bytes = 0;
};

struct ReplySlotSpan {
  uint32_t reply_slot = 0;
  uint32_t reply = 0;  // Outgoing::reply
};

struct SingleCopySpan {
  const std::byte* address = nullptr;  // in the sender's process
};
static_assert(sizeof(ReferenceSpan) == kInlineBytes);

// Words with different writers are two cache lines apart, because CPUs fetch lines in pairs.
struct RingWords {
  alignas(128) uint64_t magic;
  uint32_t slots;
  uint32_t buffer_bytes;
  uint32_t reply_slots;
  uint32_t reply_slot_bytes;
  ProcessMark mark;                             // of the sender
  alignas(128) std::atomic<uint64_t> consumed;  // slots; the receiver's, as are the next two
  std::atomic<uint64_t> returned;               // buffers
  std::array<uint8_t, kReturns> returns;        // the n-th returned buffer is at n mod kReturns
  alignas(128) std::atomic<uint32_t> sender_closed;
  std::atomic<uint32_t> receiver_closed;
  alignas(128) std::atomic<uint32_t> single_copy;  // the receiver can read the sender's memory
};
inline constexpr uint64_t kRingMagic = 0x3330676e69726766;  // "fgring03"

// Twice as many as slots, so that an end can keep a buffer that it has read while all its own slots
// are still in flight (buffer_credits.h).
inline constexpr uint32_t buffers_of(const ShmRingConfig& config) { return 2 * config.slots; }
inline constexpr uint32_t kMostReplySlots = 32;

class ShmRing {
 public:
  // Raises RendezvousError when the file is not a sealed ring.
  explicit ShmRing(const UniqueFd& fd);
  ~ShmRing();
  ShmRing(const ShmRing&) = delete;
  ShmRing& operator=(const ShmRing&) = delete;

  uint32_t slots() const noexcept { return config_.slots; }
  RingWords& words() const noexcept { return *reinterpret_cast<RingWords*>(base_); }
  SlotLine& line(uint64_t slot) const noexcept { return lines_[slot & mask_]; }
  uint64_t buffer_bytes() const noexcept { return config_.buffer_bytes; }
  uint32_t buffers() const noexcept { return buffers_of(config_); }
  std::byte* buffer(uint64_t n) const noexcept { return buffers_ + n * config_.buffer_bytes; }
  uint32_t reply_slots() const noexcept { return config_.reply_slots; }
  uint64_t reply_slot_bytes() const noexcept { return config_.reply_slot_bytes; }
  std::byte* reply_slot(uint64_t n) const noexcept {
    return reply_slots_ + n * config_.reply_slot_bytes;
  }
  // The bytes per piece of a frame of `size_bytes` in buffers. Its last piece may have fewer.
  uint64_t piece_bytes(uint64_t size_bytes) const noexcept;
  bool closed() const noexcept;

 private:
  ShmRingConfig config_;
  uint64_t mask_ = 0;
  std::size_t mapped_bytes_ = 0;
  std::byte* base_ = nullptr;
  SlotLine* lines_ = nullptr;
  std::byte* buffers_ = nullptr;
  std::byte* reply_slots_ = nullptr;
};

}  // namespace fastgpu
