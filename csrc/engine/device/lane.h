// run_lanes(): the kernel that runs a table. A block runs a lane, entry after entry, and blocks
// share nothing.
//
// A send is one word in the receiver's memory: "my frames up to this one may be read". A receive
// waits for the word and reads the sender's memory: nothing is staged, and only its own rank writes
// a buffer. `verify` proves for every schedule that no step writes a region whose send is pending,
// even if a send leaves only as its receiver takes it. So a sender need not wait before it goes on.
// A lane ends when every peer has said that it has read the last frame. Then the buffers are the
// caller's again.
//
// Order of memory: data is written by all threads of a block, then comes a barrier, then one thread
// releases the word. At the receiver one thread acquires the word, then comes a barrier, then all
// threads read. docs/cuda.md has the argument.
//
// Threading: device code; all threads of a block call run_lane() together. A block has at least
// kMaxBatch threads.
#pragma once

#include "engine/device/mail.h"
#include "engine/device/table.h"
#include "kernels/cuda/reduce.h"

namespace fastgpu::device {

static_assert(kMaxSources <= kMaxBatch);

struct LaneArgs {
  Group group;
  const Entry* entries;
  const uint32_t* first;                  // Table::first
  uint64_t key[2];                        // of the call
  double factor;                          // of averages; else 1
  uint64_t* operation;                    // by lane: how many have ended; this rank's own
  std::byte* buffers[3];                  // input, data, scratch
  uint64_t locations[3];                  // of the buffers, for peers
  std::byte* const* segments[kMaxRanks];  // by rank and number: where this rank maps them
  Mail* mail[kMaxRanks];                  // by rank: its [lane * world + from]
};

namespace lane {

// The sources and targets of a step, as all threads of a block use them; two sets take turns.
struct Shared {
  Sources sources[2];
  Targets targets[2];
};

struct Run {
  const LaneArgs& args;
  unsigned lane;
  uint64_t operation;  // shifted, so that a frame can be added

  FASTGPU_DEVICE Mail* mail(int owner, int from) const {
    const auto world = static_cast<unsigned>(args.group.world);
    return args.mail[owner] + lane * world + static_cast<unsigned>(from);
  }
  // The peer's words in this rank's memory, and this rank's words in the peer's.
  FASTGPU_DEVICE Mail* mail_from(int peer) const { return mail(args.group.rank, peer); }
  FASTGPU_DEVICE Mail* mail_to(int peer) const { return mail(peer, args.group.rank); }
  FASTGPU_DEVICE FailurePoint waiting(const Entry& entry, uint32_t number) const {
    return {FailureCode::kNone, entry.peer, static_cast<uint16_t>(lane), number};
  }
};

// Once for each operation and channel; the words are released by the post that follows.
FASTGPU_DEVICE void fill_mail(const Run& run, const Entry& entry) {
  Mail* const mail = run.mail_to(entry.peer);
  for (int i = 0; i < 2; ++i) simt::store_relaxed(&mail->key[i], run.args.key[i]);
  for (int i = 0; i < 3; ++i) simt::store_relaxed(&mail->locations[i], run.args.locations[i]);
  simt::store_relaxed(&mail->offset, entry.place & Place::kOffset);
}

FASTGPU_DEVICE void post(const Run& run, const Entry& entry) {
  if (entry.opens) fill_mail(run, entry);
  simt::store_release(&run.mail_to(entry.peer)->posted, run.operation + entry.frame);
}

FASTGPU_DEVICE std::byte* own_memory(const Run& run, uint64_t place) {
  return run.args.buffers[place >> Place::kBufferShift] + (place & Place::kOffset);
}

// Returns the address at which this rank maps the frame. The mail has the frame's location.
FASTGPU_DEVICE const std::byte* peer_memory(const Run& run, const Entry& source) {
  const Mail* const mail = run.mail_from(source.peer);
  const uint64_t location =
      simt::load_relaxed(&mail->locations[source.place >> Place::kBufferShift]);
  uint64_t offset_bytes = (location & Location::kOffset) + (source.place & Place::kOffset);
  if ((source.place & Place::kRelative) != 0) offset_bytes += simt::load_relaxed(&mail->offset);
  return run.args.segments[source.peer][location >> Location::kSegmentShift] + offset_bytes;
}

// Waits for the frame, and checks that the peer has made the same call. Returns false on failure.
FASTGPU_DEVICE bool find_source(const Run& run, const Entry& source, uint32_t number,
                                const std::byte*& address) {
  if (source.frame == 0) {
    address = own_memory(run, source.place);
    return true;
  }
  const Group& group = run.args.group;
  const Mail* const mail = run.mail_from(source.peer);
  const FailurePoint waiting = run.waiting(source, number);
  if (!wait_for(group, &mail->posted, run.operation + source.frame, waiting)) return false;
  if (simt::load_relaxed(&mail->key[0]) != run.args.key[0] ||
      simt::load_relaxed(&mail->key[1]) != run.args.key[1]) {
    fail_mismatch(group, waiting, run.operation >> kFrameBits,
                  {{run.args.key[0], run.args.key[1]},
                   {simt::load_relaxed(&mail->key[0]), simt::load_relaxed(&mail->key[1])}});
    return false;
  }
  address = peer_memory(run, source);
  return true;
}

// One thread's entry of a batch. Returns false on failure.
FASTGPU_DEVICE bool do_one(const Run& run, uint32_t number) {
  const Entry entry = run.args.entries[number];
  if (entry.kind == EntryKind::kPost) {
    post(run, entry);
  } else if (entry.kind == EntryKind::kTaken) {
    simt::store_release(&run.mail_to(entry.peer)->taken, run.operation + entry.frame);
  } else {
    return wait_for(run.args.group, &run.mail_from(entry.peer)->taken, run.operation + entry.frame,
                    run.waiting(entry, number));
  }
  return true;
}

// All threads. Returns false on failure.
template <typename Element, typename Op>
FASTGPU_DEVICE bool combine(const Run& run, const Entry& entry, uint32_t number, Sources& sources,
                            Targets& targets) {
  bool failed = false;
  if (simt::thread_index() < entry.count) {
    const uint32_t mine = number + 1 + simt::thread_index();
    failed = !find_source(run, run.args.entries[mine], mine, sources.at[simt::thread_index()]);
  }
  if (simt::thread_index() == 0) {
    sources.count = entry.count;
    targets.at[0] = own_memory(run, entry.place);
    targets.count = 1;
  }
  // After the barrier every thread knows the sources, the frames are there, and all threads have
  // done the earlier entries.
  if (simt::sync_block_or(failed)) return false;
  const double factor = entry.completes ? run.args.factor : 1;
  reduce_share<Element, Op>(sources, targets, entry.size_bytes, factor, share_of_block());
  return true;
}

}  // namespace lane

template <typename Element, typename Op>
FASTGPU_DEVICE void run_lane(const LaneArgs& args, unsigned lane_number) {
  FASTGPU_SHARED(lane::Shared, shared);
  const lane::Run run{args, lane_number, (args.operation[lane_number] + 1) << kFrameBits};
  const bool leads = simt::thread_index() == 0;
  if (lane_number == 0) announce(args.group, args.key);
  if (simt::sync_block_or(leads && is_stopped(args.group))) return tell_host(args.group);
  bool combined = false;  // since the last barrier
  unsigned turn = 0;
  const uint32_t end = args.first[lane_number + 1];
  for (uint32_t number = args.first[lane_number]; number < end;) {
    const Entry entry = args.entries[number];
    if (entry.kind == EntryKind::kCombine) {
      // Threads may still read the pointers of the last step, but no earlier ones.
      const unsigned set = turn++ % 2;
      if (!lane::combine<Element, Op>(run, entry, number, shared.sources[set],
                                      shared.targets[set])) {
        return tell_host(args.group);
      }
      combined = true;
      number += 1u + entry.count;
      continue;
    }
    if (combined) simt::sync_block();
    combined = false;
    bool failed = false;
    if (simt::thread_index() < entry.count) {
      failed = !lane::do_one(run, number + simt::thread_index());
    }
    if (entry.kind == EntryKind::kAwait && simt::sync_block_or(failed)) {
      return tell_host(args.group);
    }
    number += entry.count;
  }
  if (leads) args.operation[lane_number] += 1;
}

// The grid has a block for each lane.
template <typename Element, typename Op>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1) run_lanes(FASTGPU_PARAMETER(LaneArgs) args) {
  run_lane<Element, Op>(args, simt::block_index());
}

// Several ranks of one process on one GPU. They wait for each other, so all blocks must be
// resident: a cooperative launch with `lanes` blocks for each rank.
template <typename Element, typename Op>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    run_ranks(const LaneArgs* ranks, unsigned lanes) {
  run_lane<Element, Op>(ranks[simt::block_index() / lanes], simt::block_index() % lanes);
}

using LaneKernel = void (*)(LaneArgs);

}  // namespace fastgpu::device
