#include "comm/retired_words.h"

namespace fastgpu {

void RetiredWords::add(const MemberKey& member, int world, Allocator& heap, std::byte* words) {
  const std::lock_guard lock(mutex_);
  const uint64_t all = (uint64_t{1} << world) - 1;
  words_.push_back({.member = member,
                    .heap = &heap,
                    .memory = words,
                    .running = all & ~(uint64_t{1} << member.rank)});
  told_[next_++ % kMostTold] = {
      .communicator = member.communicator, .generation = member.generation, .rank = member.rank};
}

RetiredWords::Told RetiredWords::told() const {
  const std::lock_guard lock(mutex_);
  return told_;
}

void RetiredWords::take(std::span<const EndedMember> ended) {
  const std::lock_guard lock(mutex_);
  for (const EndedMember& each : ended) {
    if (each.rank < 0 || each.rank >= 64) continue;
    for (Words& words : words_) {
      if (words.member.communicator != each.communicator) continue;
      if (words.member.generation == each.generation) {
        words.running &= ~(uint64_t{1} << each.rank);
      }
    }
  }
  std::erase_if(words_, [](const Words& words) {
    if (words.running != 0) return false;
    words.heap->free(words.memory);
    return true;
  });
}

}  // namespace fastgpu
