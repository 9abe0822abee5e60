// RetiredWords: when the words of a group that was left go back to their heap.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "check.h"
#include "comm/retired_words.h"

namespace fastgpu {
namespace {

class CountingHeap final : public Allocator {
 public:
  std::byte* allocate(std::size_t) override { return nullptr; }
  void free(std::byte*) noexcept override { ++freed; }

  int freed = 0;
};

constexpr uint64_t kGroup = 7;

std::vector<EndedMember> ended(int rank, uint64_t communicator = kGroup, uint32_t generation = 0) {
  return {{.communicator = communicator, .generation = generation, .rank = rank}};
}

TEST(words_are_freed_once_every_peer_has_told) {
  CountingHeap heap;
  std::byte words{};
  RetiredWords retired;
  retired.add({.communicator = kGroup, .rank = 1}, 3, heap, &words);
  for (const int rank : {0, 0, 1, kNoRank, 64}) retired.take(ended(rank));
  CHECK_EQ(heap.freed, 0);
  retired.take(ended(2, kGroup + 1));
  retired.take(ended(2, kGroup, 1));
  CHECK_EQ(heap.freed, 0);
  retired.take(ended(2));
  CHECK_EQ(heap.freed, 1);
  retired.take(ended(2));
  CHECK_EQ(heap.freed, 1);
}

TEST(a_process_tells_of_the_groups_that_it_left_last) {
  CountingHeap heap;
  std::byte words{};
  RetiredWords retired;
  for (const EndedMember& none : retired.told()) CHECK_EQ(none.rank, kNoRank);
  constexpr std::size_t kGroups = RetiredWords::kMostTold + 3;
  for (uint64_t group = 0; group < kGroups; ++group) {
    retired.add({.communicator = group, .rank = 1}, 2, heap, &words);
  }
  uint64_t oldest = kGroups;
  for (const EndedMember& each : retired.told()) {
    CHECK_EQ(each.rank, 1);
    oldest = std::min(oldest, each.communicator);
  }
  CHECK_EQ(oldest, 3U);
}

}  // namespace
}  // namespace fastgpu
