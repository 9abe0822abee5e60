// The words through which the kernels of different ranks talk, in memory that all ranks map, and
// the failure of a group. A rank polls only its own memory; others store into it.
//
// A word that tells of a frame holds (operation << kFrameBits) + frame. It only grows, so nothing
// is ever reset, and a frame of another operation is never taken for this one's. The 44 bits last
// for two years of operations of 4 microseconds. The number of the operation is in device memory,
// and the kernel counts it; so a captured graph may be replayed.
//
// Every wait ends: by its word, by `stop`, by the host's word, by its deadline, or because the peer
// that it waits for runs the kernel of another call.
//
// Threading: device code; see each function.
#pragma once

#include "engine/device/table.h"
#include "kernels/cuda/simt.h"

namespace fastgpu::device {

// From one peer, in one lane.
struct Mail {
  // Written by the peer before the first frame of an operation, then released by `posted`.
  alignas(128) uint64_t posted;  // the latest frame that may be read
  uint64_t key[2];               // the peer's call (base/call.h)
  uint64_t locations[3];         // of the peer's input, data and scratch: see Location
  uint64_t offset;               // of its first frame in its buffer; see Place::kRelative
  alignas(128) uint64_t taken;   // the latest frame of mine that the peer has read
};

// A place in memory that peers map: the number of the segment, and below it the offset in it.
struct Location {
  static constexpr int kSegmentShift = 48;
  static constexpr uint64_t kOffset = (uint64_t{1} << kSegmentShift) - 1;
};

enum class FailureCode : uint8_t { kNone, kTimeout, kMismatch, kStopped, kDeparted };

struct FailurePoint {
  FailureCode code;
  uint8_t peer;
  uint16_t lane;
  uint32_t entry;  // of the table
};
static_assert(sizeof(FailurePoint) == sizeof(uint64_t));

// One per rank. The first failure of a rank stays; the group is dead, and later kernels end at
// once.
struct Control {
  alignas(128) uint64_t stop;  // (1 + rank that failed) << 8 | code
  alignas(128) uint64_t claimed;
  // The first failure that this rank found itself. The host makes the error's message from it.
  uint64_t failure;  // a FailurePoint
  uint64_t operation;
  uint64_t mine[2];  // keys; of a mismatch
  uint64_t theirs[2];
  // The call of the rank's latest kernel: see announce().
  alignas(128) uint64_t announced[4];
};

// The word from the host to its kernels: kStopAll, and a bit for each rank that has left. The host
// sets a rank's bit after all stores of that rank's kernels have arrived.
struct HostWord {
  static constexpr uint64_t kStopAll = uint64_t{1} << 63;
  static constexpr uint64_t departed(int rank) { return uint64_t{1} << rank; }
};

struct Group {
  int rank;
  int world;
  uint64_t patience;            // of one wait, in units of simt::now()
  const uint64_t* host_word;    // pinned
  uint64_t* ended;              // pinned: `stop`, once a kernel of this rank has ended by it
  Control* control[kMaxRanks];  // by rank
};

FASTGPU_DEVICE bool is_stopped(const Group& group) {
  return simt::load_relaxed(&group.control[group.rank]->stop) != 0;
}

// Whether this is the rank's first failure. If so, the caller must note it.
FASTGPU_DEVICE bool fails_first(const Group& group) {
  return !is_stopped(group) && simt::claim(&group.control[group.rank]->claimed);
}

// All threads of a block that gives up call it, after a barrier. `stop` may not be set yet, but it
// is for the block that has noted the failure.
FASTGPU_DEVICE void tell_host(const Group& group) {
  if (simt::thread_index() != 0) return;
  const uint64_t stop = simt::load_relaxed(&group.control[group.rank]->stop);
  if (stop != 0) simt::store_relaxed(group.ended, stop);
}

// Notes the failure, and stops all ranks.
FASTGPU_DEVICE_CALL void note(const Group& group, FailurePoint failure, uint64_t operation) {
  Control& control = *group.control[group.rank];
  simt::store_relaxed(&control.failure, __builtin_bit_cast(uint64_t, failure));
  simt::store_relaxed(&control.operation, operation);
  const uint64_t stop =
      (static_cast<uint64_t>(group.rank) + 1) << 8 | static_cast<uint64_t>(failure.code);
  for (int rank = 0; rank < group.world; ++rank) {
    simt::store_release(&group.control[rank]->stop, stop);
  }
}

// Of the calls that do not match.
struct Keys {
  uint64_t mine[2];
  uint64_t theirs[2];
};

FASTGPU_DEVICE void fail_mismatch(const Group& group, FailurePoint failure, uint64_t operation,
                                  const Keys& keys) {
  if (!fails_first(group)) return;
  Control& control = *group.control[group.rank];
  FASTGPU_UNROLL
  for (int i = 0; i < 2; ++i) {
    simt::store_relaxed(&control.mine[i], keys.mine[i]);
    simt::store_relaxed(&control.theirs[i], keys.theirs[i]);
  }
  failure.code = FailureCode::kMismatch;
  note(group, failure, operation);
}

// The key in four parts, which are sent with a flag or a number above each.
FASTGPU_DEVICE uint32_t key_part(const uint64_t (&key)[2], unsigned i) {
  return static_cast<uint32_t>(key[i / 2] >> (i % 2 * 32));
}

// Tells the peers which call this kernel belongs to. Every thread of its first block calls it
// first; the last thread stores, because the others have more to do. Every rank of a group launches
// the same number of kernels, so the kernels of one call have the same number. Each word has number
// and data, and needs no order.
FASTGPU_DEVICE void announce(const Group& group, const uint64_t (&key)[2]) {
  if (simt::thread_index() + 1 != simt::block_size()) return;
  uint64_t* const words = group.control[group.rank]->announced;
  const uint64_t number = (simt::load_relaxed(words) >> 32) + 1;
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    simt::store_relaxed(words + i, number << 32 | key_part(key, i));
  }
}

// Whether the peer's kernel with the number of this rank's has another key. Then notes the failure.
FASTGPU_DEVICE_CALL bool runs_another_call(const Group& group, FailurePoint waiting,
                                           uint64_t operation) {
  const uint64_t* const mine = group.control[group.rank]->announced;
  const uint64_t* const theirs = group.control[waiting.peer]->announced;
  const uint64_t number = simt::load_relaxed(mine) >> 32;
  Keys keys{};
  FASTGPU_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint64_t own = simt::load_relaxed(mine + i);
    const uint64_t other = simt::load_relaxed(theirs + i);
    if (own >> 32 != number || other >> 32 != number) return false;
    keys.mine[i / 2] |= (own & 0xffffffff) << (i % 2 * 32);
    keys.theirs[i / 2] |= (other & 0xffffffff) << (i % 2 * 32);
  }
  if (keys.mine[0] == keys.theirs[0] && keys.mine[1] == keys.theirs[1]) return false;
  fail_mismatch(group, waiting, operation, keys);
  return true;
}

// The checks of a wait, between two reads of its word.
class Patience {
 public:
  // Returns false if the wait has failed.
  FASTGPU_DEVICE bool pause(const Group& group, FailurePoint failure, uint64_t operation) {
    if (is_stopped(group)) return false;
    if (++turns_ % 64 == 0) {
      const uint64_t told = simt::load_relaxed(group.host_word);
      if ((told & HostWord::kStopAll) != 0) {
        failure.code = FailureCode::kStopped;
      } else if ((told >> failure.peer & 1) != 0) {
        if (departed_) failure.code = FailureCode::kDeparted;
        departed_ = true;  // the word is read once more
      } else {
        const uint64_t now = simt::now();
        if (begun_ == 0) begun_ = now;
        if (now - begun_ > group.patience) failure.code = FailureCode::kTimeout;
        if (turns_ % 1024 == 0 && runs_another_call(group, failure, operation)) return false;
      }
      if (failure.code != FailureCode::kNone) {
        if (fails_first(group)) note(group, failure, operation);
        return false;
      }
    }
    simt::pause();
    return true;
  }

 private:
  uint32_t turns_ = 0;
  bool departed_ = false;
  uint64_t begun_ = 0;
};

// Waits until the word has reached the value, and acquires it. False: the group has failed.
// `waiting` has FailureCode::kNone.
FASTGPU_DEVICE bool wait_for(const Group& group, const uint64_t* word, uint64_t value,
                             FailurePoint waiting) {
  Patience patience;
  while (simt::load_relaxed(word) < value) {
    if (!patience.pause(group, waiting, value >> kFrameBits)) return false;
  }
  simt::load_acquire(word);
  return true;
}

}  // namespace fastgpu::device
