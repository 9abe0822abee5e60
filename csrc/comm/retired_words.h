// The words (lane_memory.h) of groups that this process has left. A peer that has not left its
// group yet may still launch a kernel that stores into them. So they go back to the heap only when
// every peer has reported that its kernels of the group have ended.
//
// Ranks report that during the set-up of the GPUs of a later group: it costs the end of a group no
// message and no wait. A peer that is lost reports nothing, and then the words are kept.
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

class RetiredWords {
 public:
  // A process reports only the last groups that it has left. If it leaves more between two set-ups,
  // peers never free their words of the older ones.
  static constexpr std::size_t kMostReported = 64;
  using EndedMembers = std::array<MemberKey, kMostReported>;  // unused entries have kNoRank

  // The kernels of `member` have ended. `words` are its own, in a group of `world` ranks.
  void add(const MemberKey& member, int world, Allocator& heap, std::byte* words) noexcept;
  // The members to report to peers.
  EndedMembers ended_members() const;
  // Frees the words that no kernel can reach any more, now that peers have reported these.
  void note_ended(std::span<const MemberKey> members);

 private:
  struct Words {
    MemberKey owner;
    Allocator* heap;
    std::byte* memory;
    uint64_t running;  // a bit for each peer whose kernels may run
  };

  mutable std::mutex mutex_;  // guards what follows
  std::vector<Words> words_;
  EndedMembers ended_members_;
  std::size_t next_slot_ = 0;  // the next entry of ended_members_ to overwrite
};

}  // namespace fastgpu
