// The words (lane_memory.h) of groups that this process has left. A peer that has not left its
// group yet may still launch a kernel that stores into them. So they go back to the heap only when
// every peer has said that its kernels of the group have ended.
//
// Ranks say so during the set-up of the GPUs of a later group: it costs the end of a group no
// message and no wait. A peer that is lost says nothing, and then the words are kept.
//
// Ownership: owns the words; their heaps outlive it. Thread safety: all calls, any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "control/message.h"
#include "memory/allocator.h"

namespace fastgpu {

// A rank whose kernels have ended; none if `rank` is kNoRank.
struct EndedMember {
  uint64_t communicator = 0;
  uint32_t generation = 0;
  int32_t rank = kNoRank;
};

class RetiredWords {
 public:
  // A process tells peers of the groups that it has left last. If it leaves more between two
  // set-ups, peers keep the words of the others.
  static constexpr std::size_t kMostTold = 64;
  using Told = std::array<EndedMember, kMostTold>;

  // The kernels of `member` have ended. `words` are its own, in a group of `world` ranks.
  void add(const MemberKey& member, int world, Allocator& heap, std::byte* words);
  // What this process tells its peers.
  Told told() const;
  // What peers have told. Frees the words that no kernel can reach any more.
  void take(std::span<const EndedMember> ended);

 private:
  struct Words {
    MemberKey member;
    Allocator* heap;
    std::byte* memory;
    uint64_t running;  // a bit for each peer whose kernels may run
  };

  mutable std::mutex mutex_;  // guards what follows
  std::vector<Words> words_;
  Told told_;
  std::size_t next_ = 0;  // in told_, which is written in turn
};

}  // namespace fastgpu
