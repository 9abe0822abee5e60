// all_reduce_small(): an all_reduce of little data in one trip. Every rank stores its words into
// every rank's slots and combines, in rank order, what arrives in its own. A slot holds 4 bytes of
// data and 4 bytes of flag in one 8-byte word, which arrives as a whole. So there is no order of
// memory to keep, and nothing to acknowledge.
//
// The flag is the number of the operation, with the top bit set: slots begin as 0.
//
// Two sets of slots take turns. A rank that writes set s in operation k + 2 has ended operation
// k + 1, so every peer has begun it, and has read everything of operation k.
//
// Clearing: flags repeat after 2^31 operations, and a slot that only large operations use may be
// older than that. So once in 2^20 operations, for each set, an operation sets its unused slots to
// 0. At its end the ranks wait for all others: a rank may not clear a slot after a peer has stored
// into it for a later operation.
//
// Blocks: with n threads in a block, block b has words b * n to b * n + n - 1 of each run of
// kSmallBlocks * n words, whatever the size of the grid. It counts its own operations. So blocks
// share nothing, and a smaller grid leaves the words and counts of the other blocks as they are.
// All ranks launch the same grid, always with blocks of one size.
//
// Threading: device code.
#pragma once

#include "engine/device/mail.h"
#include "kernels/cuda/combine.h"
#include "kernels/cuda/reduce_args.h"

namespace fastgpu::device {

inline constexpr unsigned kSmallBlocks = 16;  // the most of a grid
inline constexpr unsigned kKeyWords = 4;      // of 4 bytes
inline constexpr uint64_t kClearEvery = uint64_t{1} << 20;

struct SmallArgs {
  Group group;
  uint64_t key[2];
  const std::byte* input;  // may be the output
  std::byte* output;
  uint64_t size_bytes;
  double factor;                 // of averages; else 1
  uint32_t capacity;             // words of 4 bytes that a row of slots has for data
  uint64_t* operation;           // by block: how many have ended; this rank's own
  uint64_t* slots[kMaxRanks];    // by rank: [set][from][slots_of(capacity)]
  uint64_t* cleared[kMaxRanks];  // by rank: [block * world + from]
};

// The slots of a row: the data, and the key of each block.
FASTGPU_DEVICE uint64_t slots_of(uint32_t capacity) {
  return uint64_t{capacity} + kSmallBlocks * kKeyWords;
}

namespace small {

struct Run {
  const SmallArgs& args;
  unsigned block;
  uint64_t operation;

  FASTGPU_DEVICE uint64_t flag() const { return (operation | 0x80000000) << 32; }
  FASTGPU_DEVICE uint64_t words() const { return (args.size_bytes + 3) / 4; }
  FASTGPU_DEVICE uint64_t* slot(int owner, int from, uint64_t word) const {
    const auto world = static_cast<uint64_t>(args.group.world);
    const uint64_t row = operation % 2 * world + static_cast<uint64_t>(from);
    return args.slots[owner] + row * slots_of(args.capacity) + word;
  }
  FASTGPU_DEVICE uint64_t key_word(unsigned i) const {
    return args.capacity + block * kKeyWords + i;
  }
  FASTGPU_DEVICE uint64_t first() const {
    return uint64_t{block} * simt::block_size() + simt::thread_index();
  }
  FASTGPU_DEVICE uint64_t stride() const { return uint64_t{kSmallBlocks} * simt::block_size(); }
  FASTGPU_DEVICE FailurePoint waiting(int peer, uint64_t word) const {
    return {FailureCode::kNone, static_cast<uint8_t>(peer), static_cast<uint16_t>(block),
            static_cast<uint32_t>(word)};
  }
};

FASTGPU_DEVICE void send(const Run& run, uint64_t word, uint32_t data) {
  const Group& group = run.args.group;
  for (int ahead = 1; ahead < group.world; ++ahead) {
    const int sum = group.rank + ahead;
    const int peer = sum < group.world ? sum : sum - group.world;
    simt::store_relaxed(run.slot(peer, group.rank, word), run.flag() | data);
  }
}

// Returns false if the group has failed.
FASTGPU_DEVICE bool receive(const Run& run, int from, uint64_t word, uint32_t& data) {
  const Group& group = run.args.group;
  const uint64_t* const slot = run.slot(group.rank, from, word);
  Patience patience;
  uint64_t arrived = 0;
  while ((arrived = simt::load_relaxed(slot)) >> 32 != run.flag() >> 32) {
    if (!patience.pause(group, run.waiting(from, word), run.operation)) return false;
  }
  data = static_cast<uint32_t>(arrived);
  return true;
}

// Thread i of a block compares word i of the keys.
FASTGPU_DEVICE bool check_key(const Run& run, unsigned i) {
  const Group& group = run.args.group;
  for (int from = 0; from < group.world; ++from) {
    if (from == group.rank) continue;
    uint32_t word = 0;
    if (!receive(run, from, run.key_word(i), word)) return false;
    if (word == key_part(run.args.key, i)) continue;
    uint32_t words[kKeyWords];
    FASTGPU_UNROLL
    for (unsigned each = 0; each < kKeyWords; ++each) {
      if (!receive(run, from, run.key_word(each), words[each])) return false;
    }
    fail_mismatch(group, run.waiting(from, run.key_word(i)), run.operation,
                  {{run.args.key[0], run.args.key[1]},
                   {words[0] | uint64_t{words[1]} << 32, words[2] | uint64_t{words[3]} << 32}});
    return false;
  }
  return true;
}

// The elements of a word; the last word may be incomplete.
template <typename Storage>
FASTGPU_DEVICE uint32_t load_word(const std::byte* memory, uint64_t word, uint64_t size_bytes) {
  struct Elements {
    Storage at[4 / sizeof(Storage)];
  } elements{};
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4 / sizeof(Storage); ++i) {
    const uint64_t offset_bytes = word * 4 + i * sizeof(Storage);
    if (offset_bytes < size_bytes) {
      elements.at[i] = load_element<Storage>(memory + offset_bytes);
    }
  }
  return __builtin_bit_cast(uint32_t, elements);
}

template <typename Storage>
FASTGPU_DEVICE void store_word(std::byte* memory, uint64_t word, uint64_t size_bytes,
                               uint32_t value) {
  struct Elements {
    Storage at[4 / sizeof(Storage)];
  };
  const auto elements = __builtin_bit_cast(Elements, value);
  FASTGPU_UNROLL
  for (unsigned i = 0; i < 4 / sizeof(Storage); ++i) {
    const uint64_t offset_bytes = word * 4 + i * sizeof(Storage);
    if (offset_bytes < size_bytes) store_element(memory + offset_bytes, elements.at[i]);
  }
}

template <typename Element, typename Op>
FASTGPU_DEVICE uint32_t scale_word(double factor, uint32_t result) {
  if constexpr (kScales<Element, Op>) {
    if (factor != 1) {
      const Pack scaled =
          scale_pack<Element>({{result, 0, 0, 0}}, static_cast<typename Element::Value>(factor));
      return scaled.word[0];
    }
  }
  return result;
}

template <typename Element, typename Op>
FASTGPU_DEVICE bool combine_slots(const Run& run, uint64_t word) {
  const SmallArgs& args = run.args;
  using Storage = typename Element::Storage;
  uint32_t result = 0;
  for (int from = 0; from < args.group.world; ++from) {
    uint32_t data = 0;
    if (from == args.group.rank) {
      data = load_word<Storage>(args.input, word, args.size_bytes);
    } else if (!receive(run, from, word, data)) {
      return false;
    }
    result = from == 0 ? data : combine_word<Element, Op>(result, data);
  }
  store_word<Storage>(args.output, word, args.size_bytes,
                      scale_word<Element, Op>(args.factor, result));
  return true;
}

// The block's slots that the operation does not use, in this rank's memory.
FASTGPU_DEVICE void clear_unused(const Run& run) {
  const Group& group = run.args.group;
  uint64_t word = run.first();
  while (word < run.words()) word += run.stride();
  for (; word < run.args.capacity; word += run.stride()) {
    for (int from = 0; from < group.world; ++from) {
      simt::store_relaxed(run.slot(group.rank, from, word), 0);
    }
  }
}

// Waits until this block of every rank has cleared. Thread i talks with rank i.
FASTGPU_DEVICE bool wait_for_all(const Run& run) {
  const Group& group = run.args.group;
  const auto world = static_cast<unsigned>(group.world);
  const auto peer = static_cast<int>(simt::thread_index());
  simt::sync_block();
  bool failed = false;
  if (peer < group.world && peer != group.rank) {
    const unsigned block = run.block * world;
    simt::store_release(run.args.cleared[peer] + block + static_cast<unsigned>(group.rank),
                        run.operation << kFrameBits);
    failed = !wait_for(group, run.args.cleared[group.rank] + block + static_cast<unsigned>(peer),
                       run.operation << kFrameBits, run.waiting(peer, 0));
  }
  return !simt::sync_block_or(failed);
}

}  // namespace small

// Elements have at most 4 bytes. Blocks have at least kMaxRanks threads.
template <typename Element, typename Op>
FASTGPU_DEVICE void run_small(const SmallArgs& args, unsigned block) {
  using Storage = typename Element::Storage;
  const small::Run run{args, block, args.operation[block] + 1};
  if (block == 0) announce(args.group, args.key);
  if (simt::sync_block_or(simt::thread_index() == 0 && is_stopped(args.group))) {
    return tell_host(args.group);
  }
  bool failed = false;
  if (simt::thread_index() < kKeyWords) {
    small::send(run, run.key_word(simt::thread_index()), key_part(args.key, simt::thread_index()));
  }
  for (uint64_t word = run.first(); word < run.words(); word += run.stride()) {
    small::send(run, word, small::load_word<Storage>(args.input, word, args.size_bytes));
  }
  if (simt::thread_index() < kKeyWords) failed = !small::check_key(run, simt::thread_index());
  for (uint64_t word = run.first(); word < run.words() && !failed; word += run.stride()) {
    failed = !small::combine_slots<Element, Op>(run, word);
  }
  if (simt::sync_block_or(failed)) return tell_host(args.group);
  if (run.operation % kClearEvery < 2) {
    small::clear_unused(run);
    if (!small::wait_for_all(run)) return tell_host(args.group);
  }
  if (simt::thread_index() == 0) args.operation[block] += 1;
}

template <typename Element, typename Op>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    all_reduce_small(FASTGPU_PARAMETER(SmallArgs) args) {
  run_small<Element, Op>(args, simt::block_index());
}

// Several ranks of one process on one GPU, in a cooperative launch with `blocks` for each rank.
template <typename Element, typename Op>
FASTGPU_KERNEL FASTGPU_LAUNCH_BOUNDS(kBlockThreads, 1)
    all_reduce_small_ranks(const SmallArgs* ranks, unsigned blocks) {
  run_small<Element, Op>(ranks[simt::block_index() / blocks], simt::block_index() % blocks);
}

using SmallKernel = void (*)(SmallArgs);

}  // namespace fastgpu::device
