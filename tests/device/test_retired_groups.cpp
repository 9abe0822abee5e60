// Memory of a GPU that groups hold for kernels goes back when the groups are destroyed.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "check.h"
#include "comm/retired_words.h"
#include "lane_calls.h"

namespace fastgpu::test {
namespace {

// A process with a GPU that makes groups of two. Threading: each rank by its thread.
class Member {
 public:
  Member(int rank, MemoryStore& store) : rank_(rank), store_(store) {
    runtime_.set_devices(devices_.get(), device::pretended_kernels());
    data_ = heap().allocate(kBytes);
  }
  ~Member() { devices_->destroy(stream_); }
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  // Returns a group that has memory, because it has called collectives.
  std::shared_ptr<Communicator> make_group() {
    auto group = join_world(rank_, 2, by_lanes("direct"), store_, runtime_);
    run(*group);
    return group;
  }
  void run(Communicator& group) {
    for (const std::size_t count : {std::size_t{5}, kBytes / sizeof(float)}) {
      CollectiveCall call;
      call.shape = shape_of(Collective::kAllReduce, count);
      call.data = data_;
      call.stream = stream_;
      call.device_end = std::make_shared<DeviceEnd>();
      const auto end = call.device_end;
      group.wait(*group.run(std::move(call)), -1);
      end->finish_before(stream_);
    }
    devices_->synchronize(stream_);
  }
  void capture(Communicator& group) {
    begin_capture(stream_);
    CollectiveCall call;
    call.shape = shape_of(Collective::kAllReduce, 5);
    call.data = data_;
    call.stream = stream_;
    group.run(std::move(call));
    end_capture(stream_);
  }
  DeviceHeap& heap() { return runtime_.device_heap(0); }
  int rank() const { return rank_; }

 private:
  static constexpr std::size_t kBytes = 20'000;
  const std::unique_ptr<DeviceRuntime> devices_ = make_pretended_runtime({.maps_apart = true});
  const int rank_;
  MemoryStore& store_;
  Runtime runtime_;
  const StreamHandle stream_ = devices_->make_stream(0);
  std::byte* data_;
};

template <typename Body>
void with_members(Body body) {
  MemoryStore store;
  with_threads(2, [&](int rank) {
    Member member(rank, store);
    body(member);
  });
}

TEST(groups_made_and_destroyed_use_no_more_memory_than_one) {
  with_members([](Member& member) {
    member.make_group()->shutdown();
    const std::size_t after_one = member.heap().used_bytes();
    for (int turn = 1; turn < 6; ++turn) member.make_group()->shutdown();
    CHECK_EQ(member.heap().used_bytes(), after_one);
    // No more than words of one group, and what is the test's.
    CHECK(after_one < std::size_t{1} << 20);
  });
}

// Rank 1 leaves the group later, and may store into the words of rank 0 until then.
TEST(words_are_kept_until_every_peer_has_left) {
  with_members([](Member& member) {
    const std::size_t before = member.heap().used_bytes();
    member.make_group()->shutdown();
    const std::size_t words = member.heap().used_bytes() - before;
    auto group = member.make_group();
    if (member.rank() == 0) group.reset();
    member.make_group()->shutdown();
    if (member.rank() == 0) CHECK_EQ(member.heap().used_bytes() - before, 2 * words);
    group.reset();
    member.make_group()->shutdown();
    CHECK_EQ(member.heap().used_bytes() - before, words);
  });
}

// A graph may be replayed at any time, and its kernels store into the words of all ranks.
TEST(words_of_a_group_with_a_graph_are_kept) {
  with_members([](Member& member) {
    const std::size_t before = member.heap().used_bytes();
    member.make_group()->shutdown();
    const std::size_t words = member.heap().used_bytes() - before;
    {
      const auto group = member.make_group();
      if (member.rank() == 0) member.capture(*group);
      member.run(*member.make_group());
    }
    for (int turn = 0; turn < 3; ++turn) member.make_group()->shutdown();
    CHECK_EQ(member.heap().used_bytes() - before, 2 * words);
  });
}

class CountingHeap final : public Allocator {
 public:
  std::byte* allocate(std::size_t) override { return nullptr; }
  void free(std::byte*) noexcept override { ++freed; }

  int freed = 0;
};

constexpr uint64_t kGroup = 7;

std::vector<MemberKey> ended(int rank, uint64_t communicator = kGroup, uint32_t generation = 0) {
  return {{.communicator = communicator, .rank = rank, .generation = generation}};
}

TEST(words_are_freed_once_every_peer_has_reported) {
  CountingHeap heap;
  std::byte words{};
  RetiredWords retired;
  retired.add({.communicator = kGroup, .rank = 1}, 3, heap, &words);
  for (const int rank : {0, 0, 1, kNoRank, 64}) retired.note_ended(ended(rank));
  CHECK_EQ(heap.freed, 0);
  retired.note_ended(ended(2, kGroup + 1));
  retired.note_ended(ended(2, kGroup, 1));
  CHECK_EQ(heap.freed, 0);
  retired.note_ended(ended(2));
  CHECK_EQ(heap.freed, 1);
  retired.note_ended(ended(2));
  CHECK_EQ(heap.freed, 1);
}

TEST(a_process_reports_the_groups_that_it_left_last) {
  CountingHeap heap;
  std::byte words{};
  RetiredWords retired;
  for (const MemberKey& none : retired.ended_members()) CHECK_EQ(none.rank, kNoRank);
  constexpr std::size_t kGroups = RetiredWords::kMostReported + 3;
  for (uint64_t group = 0; group < kGroups; ++group) {
    retired.add({.communicator = group, .rank = 1}, 2, heap, &words);
  }
  uint64_t oldest = kGroups;
  for (const MemberKey& each : retired.ended_members()) {
    CHECK_EQ(each.rank, 1);
    oldest = std::min(oldest, each.communicator);
  }
  CHECK_EQ(oldest, 3U);
}

}  // namespace
}  // namespace fastgpu::test
