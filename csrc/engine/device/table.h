// Table: the schedule of one rank in the form that a kernel runs (lane.h). compile() makes it from
// the schedules of all ranks, because a receive reads the sender's memory and must know where the
// frame lies there.
//
// Ownership: plain values. Threading: pure functions, any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/schedule.h"

namespace fastgpu::device {

// One GPU may map the memory of this many ranks.
inline constexpr int kMaxRanks = 8;

enum class EntryKind : uint8_t {
  kPost,     // tells `peer` that the channel's frames up to `frame` may be read
  kCombine,  // target = source op source ..., or a copy; the sources follow
  kSource,   // of the kCombine before it: frame `frame` of `peer`, or own memory if `frame` is 0
  kTaken,    // tells `peer` that the channel's frames up to `frame`, the last one, have been read
  kAwait,    // waits until `peer` has taken the channel's last frame, `frame`
};

// A place in a buffer: the buffer's number in the top bits, then kRelative, then the offset. With
// kRelative the offset counts from Mail::offset, which the sender writes.
struct Place {
  static constexpr int kBufferShift = 62;
  static constexpr uint64_t kRelative = uint64_t{1} << 61;
  static constexpr uint64_t kOffset = kRelative - 1;
};

// Consecutive independent entries of one kind form a batch. A block gives each entry of a batch to
// another thread. The first entry has the size of the batch.
struct alignas(32) Entry {
  uint64_t place = 0;       // kCombine: target; kSource: source; kPost: of the frame, in my memory
  uint64_t size_bytes = 0;  // of a kCombine
  uint32_t frame = 0;       // 1 + ordinal
  uint8_t peer = 0;
  EntryKind kind = EntryKind::kPost;
  uint8_t count = 1;       // of the batch; of a kCombine: of its sources
  bool opens = false;      // a kPost: the channel's first, which fills the mail
  bool completes = false;  // a kCombine: its results are multiplied by LaneArgs::factor
};

inline constexpr int kFrameBits = 20;  // frames of a channel in one operation
inline constexpr std::size_t kMaxBatch = 32;

struct Table {
  std::vector<Entry> entries;
  std::vector<uint32_t> first;  // by lane: its entries begin at first[lane], and end at the next
};

struct CompileOptions {
  bool fold = true;  // merges receives and copies onto one target (fold.h)
};

// The table of `rank`. Throws InvalidArgumentError for a world above kMaxRanks, for encoded
// schedules, and for more frames in a channel than kFrameBits can number.
Table compile(std::span<const Schedule> schedules, int rank, const CompileOptions& options = {});

// The same for an all_to_all whose counts other ranks do not know: a sender puts into the mail
// where in its input the frames of a channel begin. The frames are contiguous.
Table compile_all_to_all(const Schedule& schedule, int world);

}  // namespace fastgpu::device
