#include "comm/retired_words.h"

#include <new>

#include "base/log.h"

namespace fastgpu {

void RetiredWords::add(const MemberKey& member, int world, Allocator& heap,
                       std::byte* words) noexcept {
  const std::lock_guard lock(mutex_);
  ended_members_[next_slot_++ % kMostReported] = member;
  const uint64_t all = (uint64_t{1} << world) - 1;
  try {
    words_.push_back({.owner = member,
                      .heap = &heap,
                      .memory = words,
                      .running = all & ~(uint64_t{1} << member.rank)});
  } catch (const std::bad_alloc&) {
    log(LogLevel::kInfo, "gpu_words_kept", "reason=\"out of memory\"");
  }
}

RetiredWords::EndedMembers RetiredWords::ended_members() const {
  const std::lock_guard lock(mutex_);
  return ended_members_;
}

void RetiredWords::note_ended(std::span<const MemberKey> members) {
  const std::lock_guard lock(mutex_);
  for (const MemberKey& member : members) {
    if (member.rank < 0 || member.rank >= 64) continue;
    for (Words& words : words_) {
      const bool is_of_group = words.owner.communicator == member.communicator &&
                               words.owner.generation == member.generation;
      if (is_of_group) words.running &= ~(uint64_t{1} << member.rank);
    }
  }
  std::erase_if(words_, [](const Words& words) {
    if (words.running != 0) return false;
    words.heap->free(words.memory);
    return true;
  });
}

}  // namespace fastgpu
