// Schedule: the steps that one rank takes for one collective, written down before anything moves.
// Builders write a schedule, verify() proves it, the cost model prices it, simulate() plays it and
// the engine runs it.
//
// A lane is an independent share of the collective with its own channel to every peer (NCCL calls
// it a channel). Rules that every schedule keeps, and verify() proves:
//   - In a lane, receives and copies run in order. Sends are posted and leave in order per peer.
//     A lane ends when its sends have left.
//   - No step writes a region that has a pending send.
//   - Lanes are independent: no lane touches a region that another lane writes.
//
// Ownership: plain values, immutable once built, shared by pointer. Threading: any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fastgpu {

enum class Buffer : uint8_t {
  kInput,    // what the caller gave; never written
  kData,     // what the caller receives; for all_reduce and broadcast also what it gave
  kScratch,  // temporary memory of the operation, Schedule::scratch_bytes long
};

struct Region {
  Buffer buffer = Buffer::kData;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;

  uint64_t end_bytes() const { return offset_bytes + size_bytes; }
  bool operator==(const Region&) const = default;
};

inline bool overlap(const Region& a, const Region& b) {
  return a.buffer == b.buffer && a.offset_bytes < b.end_bytes() && b.offset_bytes < a.end_bytes();
}

enum class Verb : uint8_t {
  kSend,  // source -> peer
  kRecv,  // peer -> target, stored or reduced
  kCopy,  // source -> target on this rank, stored or reduced
};
inline constexpr int kVerbCount = 3;

// Whether a copy encodes or decodes. An encoded region is in scratch; its size follows from the
// number of elements (base/codec.h), and it is decoded as a whole.
//
// With error feedback an encoding adds the residual of its elements, and replaces it by what it
// lost. kAddResidual is for elements that a rank sends unencoded: it adds the residual to them in
// place, and leaves 0. Without error feedback it does nothing.
enum class Coding : uint8_t { kPlain, kEncode, kDecode, kAddResidual };

// A frame is the unit that a send moves to a receive. An empty frame has only a header, which names
// the call. With it a rank that has nothing to send still lets its peer detect a mismatched call.
struct Step {
  Verb verb = Verb::kSend;
  bool reduce = false;             // target = target op source, instead of target = source
  Coding coding = Coding::kPlain;  // of a copy
  int peer = -1;
  // The frame's number among all frames from sender to receiver in this lane, from 0.
  uint32_t ordinal = 0;
  // Of a send: 1 + the ordinal of its reply, 0 if there is none. The reply is the peer's later
  // frame that replaces exactly the region that was sent, when no other step of the lane uses the
  // region in between. A channel may then let the peer write the reply in place.
  uint32_t reply = 0;
  Region source;
  Region target;
  // Of a reduction: the target then holds the reduction over all ranks, and no step reduces it
  // further. Every element of a result passes through one such step, if there are several ranks.
  bool completes = false;
  // Of a store into data: no later step of the lane uses the target. The engine may then keep the
  // bytes out of the caches.
  bool last_use = false;
};

// Of a copy: the bytes of elements that it passes over, not of their encoding; 0 for kAddResidual.
uint64_t copied_bytes(const Step& step);

using Lane = std::vector<Step>;

inline constexpr uint64_t kMaxFrameBytes = uint64_t{1} << 30;

struct Schedule {
  std::vector<Lane> lanes;
  uint64_t scratch_bytes = 0;
  // Several peers receive what this rank copies into scratch. Scratch is then allocated in
  // memory that the peers can read in place.
  bool scratch_shared = false;
};

// What a schedule's rank sends and receives, without headers.
struct FrameBytes {
  uint64_t sent = 0;
  uint64_t received = 0;
};
FrameBytes frame_bytes(const Schedule& schedule);

// "recv_reduce(peer=1 -> data[0, 64))", for messages.
std::string describe(const Step& step);

// "input", "data" or "scratch"; "send", "recv" or "copy".
const char* name_of(Buffer buffer);
const char* name_of(Verb verb);

}  // namespace fastgpu
