#include <algorithm>

#include "check.h"
#include "plan/build.h"
#include "plan/builders/lane_builder.h"
#include "plan/sums.h"

namespace fastgpu::test {
namespace {

constexpr Region kSum{Buffer::kData, 0, 64};
constexpr Region kOther{Buffer::kData, 64, 64};
constexpr Region kCopy{Buffer::kScratch, 0, 64};

// The sum at rank 2 of 4, and what `then` adds to the lane.
template <typename Then>
Lane sum_and(Then then) {
  LaneBuilder steps;
  steps.send(0, kOther);
  steps.copy(kSum, kCopy);
  steps.recv(0, kSum);
  steps.recv_reduce(1, kSum);
  steps.copy_reduce(kCopy, kSum);
  steps.recv_reduce(3, kSum);
  then(steps);
  return steps.finish();
}

std::size_t find_copy(const Lane& lane) {
  const auto at = std::ranges::find(lane, kCopy, &Step::target);
  return static_cast<std::size_t>(at - lane.begin());
}

template <typename Then>
bool sets_aside(Then then) {
  const Lane lane = sum_and(then);
  return is_set_aside(lane, find_copy(lane));
}

TEST(a_step_is_continued_by_a_reduction_into_its_target) {
  const Lane lane = sum_and([](LaneBuilder& steps) { steps.recv(1, kOther); });
  const std::size_t copy = find_copy(lane);
  for (std::size_t i = 0; i < lane.size(); ++i) {
    CHECK_EQ(is_continued(lane, i), i >= copy + 1 && i <= copy + 3);
  }
}

TEST(a_send_or_a_code_or_another_region_ends_a_sum) {
  const auto continues = [](auto between) {
    LaneBuilder steps;
    steps.recv_reduce(1, kSum);
    between(steps);
    steps.recv_reduce(1, kSum);
    const Lane lane = steps.finish();
    const auto at = std::ranges::find(lane, Verb::kRecv, &Step::verb);
    return is_continued(lane, static_cast<std::size_t>(at - lane.begin()));
  };
  CHECK(continues([](LaneBuilder&) {}));
  CHECK(!continues([](LaneBuilder& steps) { steps.send(1, kOther); }));
  CHECK(!continues([](LaneBuilder& steps) { steps.recv_reduce(1, kOther); }));
  CHECK(!continues([](LaneBuilder& steps) { steps.recv_reduce(1, {Buffer::kData, 0, 32}); }));
  CHECK(!continues([](LaneBuilder& steps) { steps.recv(1, kSum); }));
  CHECK(!continues([](LaneBuilder& steps) { steps.decode_reduce(kCopy, kSum); }));
  CHECK(!continues([](LaneBuilder& steps) { steps.add_residual(kSum); }));
}

TEST(a_copy_that_only_the_sum_reads_is_set_aside) {
  CHECK(sets_aside([](LaneBuilder&) {}));
  CHECK(sets_aside([](LaneBuilder& steps) { steps.send(1, kSum); }));
  CHECK(!sets_aside([](LaneBuilder& steps) { steps.copy_reduce(kCopy, kSum); }));
  CHECK(!sets_aside([](LaneBuilder& steps) { steps.send(1, kCopy); }));
  CHECK(!sets_aside([](LaneBuilder& steps) { steps.recv_reduce(1, kCopy); }));
  // Written before it is read, wholly or in part.
  const auto rest_is_read = [](const Region& written, const Region& read) {
    return !sets_aside([&](LaneBuilder& steps) {
      steps.copy(kOther, written);
      steps.send(1, read);
    });
  };
  const auto part = [](uint64_t begin, uint64_t end) {
    return Region{Buffer::kScratch, begin, end - begin};
  };
  CHECK(!rest_is_read(kCopy, kCopy));
  CHECK(!rest_is_read(part(0, 48), part(0, 48)));
  CHECK(rest_is_read(part(0, 48), part(0, 49)));
  CHECK(!rest_is_read(part(16, 64), part(16, 64)));
  CHECK(rest_is_read(part(16, 64), part(15, 64)));
  CHECK(rest_is_read(part(16, 48), part(16, 48)));  // careful
  CHECK(!rest_is_read(part(16, 48), part(64, 80)));
}

TEST(a_copy_is_set_aside_only_for_a_sum_in_its_place) {
  const auto sets = [](auto build) {
    LaneBuilder steps;
    steps.copy(kSum, kCopy);
    build(steps);
    const Lane lane = steps.finish();
    return is_set_aside(lane, find_copy(lane));
  };
  CHECK(!sets([](LaneBuilder&) {}));
  CHECK(!sets([](LaneBuilder& steps) { steps.recv(1, kSum); }));
  CHECK(!sets([](LaneBuilder& steps) {
    steps.recv(1, kOther);
    steps.copy_reduce(kCopy, kOther);
  }));
  CHECK(!sets([](LaneBuilder& steps) {
    steps.recv_reduce(1, kSum);
    steps.copy_reduce(kCopy, kSum);
  }));
  CHECK(!sets([](LaneBuilder& steps) {
    steps.recv(1, kSum);
    steps.copy_reduce({Buffer::kScratch, 32, 64}, kSum);
  }));
  CHECK(!sets([](LaneBuilder& steps) {
    steps.recv(1, kSum);
    steps.send(1, kOther);
    steps.copy_reduce(kCopy, kSum);
  }));
}

// A one-shot all_reduce sends its copy; a two-shot does not.
TEST(direct_all_reduces_set_their_own_shards_aside) {
  for (const int shots : {1, 2}) {
    for (int rank = 0; rank < 4; ++rank) {
      PlanRequest request;
      request.algorithm = Algorithm::kDirect;
      request.world = 4;
      request.rank = rank;
      request.count = 1001;
      request.element_size = 4;
      request.block_bytes = 1024;
      request.shots = shots;
      const Schedule schedule = build(request);
      const Lane& lane = schedule.lanes.front();
      int set_aside = 0;
      int copies = 0;
      for (std::size_t i = 0; i < lane.size(); ++i) {
        copies += lane[i].target.buffer == Buffer::kScratch && lane[i].target.size_bytes > 0;
        set_aside += is_set_aside(lane, i);
      }
      const int blocks = rank == 0 ? 0 : 4;
      CHECK_EQ(copies, shots == 1 ? 1 : blocks);
      CHECK_EQ(set_aside, shots == 1 ? 0 : copies);
    }
  }
}

}  // namespace
}  // namespace fastgpu::test
