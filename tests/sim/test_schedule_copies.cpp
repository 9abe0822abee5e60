// verify() finds faults in local copies, which move no frame: the peers see only the results.
#include <algorithm>

#include "mutations.h"
#include "schedule_cases.h"

namespace fastgpu::test {
namespace {

const PlanRequest kDirectAllReduce = subject(Collective::kAllReduce, Algorithm::kDirect);

}  // namespace

TEST(copy_that_reduces) {
  check_found(
      subject(Collective::kReduceScatter, Algorithm::kRing),
      [](World& world) { find_step(lane_of(world, 1), is_copy)->reduce = true; },
      "no step has written");
}

TEST(copy_that_stores_instead_of_reducing) {
  check_found(
      kDirectAllReduce,
      [](World& world) { find_step(lane_of(world, 2), is_copy, 1)->reduce = false; },
      "the sum of all ranks");
}

// The root of a staged broadcast replaces a chunk that a peer may still be reading.
TEST(copy_before_the_acknowledgements) {
  PlanRequest request = subject(Collective::kBroadcast, Algorithm::kDirect);
  request.shots = 2;
  check_found(
      request,
      [](World& world) {
        const auto copy = find_step(lane_of(world, 1), is_copy, 2);
        std::rotate(copy - 3, copy, copy + 1);
      },
      "pending send");
}

TEST(copy_of_another_part) {
  check_found(
      subject(Collective::kReduceScatter, Algorithm::kRing),
      [](World& world) {
        Lane& lane = lane_of(world, 1);
        std::swap(find_step(lane, is_copy, 0)->source, find_step(lane, is_copy, 1)->source);
      },
      "reduces byte");
}

TEST(dropped_copy_of_the_own_part) {
  check_found(
      subject(Collective::kAllGather, Algorithm::kDirect),
      [](World& world) {
        Lane& lane = lane_of(world, 2);
        lane.erase(find_step(lane, is_copy));
      },
      "no step has written");
}

TEST(copy_into_the_input) {
  check_found(
      subject(Collective::kAllGather, Algorithm::kRing),
      [](World& world) {
        Step& copy = *find_step(lane_of(world, 2), is_copy);
        std::swap(copy.source, copy.target);
      },
      "input is written");
}

TEST(copy_of_unequal_sizes) {
  check_found(
      kDirectAllReduce,
      [](World& world) { find_step(lane_of(world, 2), is_copy)->source.size_bytes -= 4; },
      "differ in size");
}

TEST(copy_over_its_own_source) {
  check_found(
      subject(Collective::kGather, Algorithm::kDirect),
      [](World& world) {
        Step& copy = *find_step(lane_of(world, 1), is_copy);
        copy.source = copy.target;
        copy.source.offset_bytes -= 4;
      },
      "source and target overlap");
}

}  // namespace fastgpu::test
