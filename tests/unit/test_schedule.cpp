#include <algorithm>
#include <bit>

#include "base/error.h"
#include "check.h"
#include "plan/build.h"
#include "plan/builders/lane_builder.h"
#include "plan/builders/tree.h"

namespace fastgpu::test {
namespace {

PlanRequest ring_request(int world, uint64_t count) {
  PlanRequest request;
  request.world = world;
  request.count = count;
  return request;
}

}  // namespace

TEST(lane_numbers_frames_by_peer_and_direction) {
  const Region region{Buffer::kData, 0, 8};
  LaneBuilder steps;
  steps.send(1, region);
  steps.recv(1, region);
  steps.send(2, region);
  steps.send(1, region);
  steps.recv_reduce(2, region);
  const Lane lane = steps.finish();
  CHECK_EQ(lane.size(), 5u);
  CHECK_EQ(lane[0].ordinal, 0u);
  CHECK_EQ(lane[1].ordinal, 0u);
  CHECK_EQ(lane[2].ordinal, 0u);
  CHECK_EQ(lane[3].ordinal, 1u);
  CHECK(lane[4].reduce);
}

TEST(empty_regions_write_nothing_down) {
  const Region nothing{Buffer::kScratch, 64, 0};
  LaneBuilder steps;
  steps.send(1, nothing);
  steps.recv(1, nothing);
  steps.recv_reduce(1, nothing);
  steps.copy(nothing, nothing);
  steps.copy_reduce(nothing, nothing);
  CHECK(steps.finish().empty());
}

TEST(finish_closes_the_handshake) {
  const Region region{Buffer::kData, 0, 8};
  LaneBuilder steps;
  steps.send(1, region);
  steps.recv(2, region);
  steps.send(3, region);
  steps.recv(3, region);
  const Lane lane = steps.finish();
  CHECK_EQ(lane.size(), 6u);
  CHECK(lane.front().verb == Verb::kSend && lane.front().peer == 2);
  CHECK_EQ(lane.front().source.size_bytes, 0u);
  CHECK(lane.back().verb == Verb::kRecv && lane.back().peer == 1);
  CHECK_EQ(lane.back().target.size_bytes, 0u);
}

TEST(long_regions_become_several_frames) {
  const Region region{Buffer::kInput, 32, 2 * kMaxFrameBytes + 16};
  LaneBuilder steps;
  steps.send(1, region);
  steps.recv(1, {Buffer::kData, 0, region.size_bytes});
  const Lane lane = steps.finish();
  CHECK_EQ(lane.size(), 6u);
  CHECK(lane[1].source == (Region{Buffer::kInput, 32 + kMaxFrameBytes, kMaxFrameBytes}));
  CHECK(lane[2].source == (Region{Buffer::kInput, 32 + 2 * kMaxFrameBytes, 16}));
  CHECK(lane[5].target == (Region{Buffer::kData, 2 * kMaxFrameBytes, 16}));
  CHECK_EQ(lane[5].ordinal, 2u);
}

TEST(steps_have_words) {
  const Region region{Buffer::kScratch, 64, 32};
  CHECK_EQ(
      describe({.verb = Verb::kRecv, .reduce = true, .peer = 3, .source = {}, .target = region}),
      "recv_reduce(peer=3 -> scratch[64, 96))");
  CHECK_EQ(describe({.verb = Verb::kCopy, .source = {Buffer::kInput, 0, 32}, .target = region}),
           "copy(input[0, 32) -> scratch[64, 96))");
}

// The steps of rank 1 in a ring of three, with two lanes and one element per shard.
TEST(ring_by_hand) {
  PlanRequest request = ring_request(3, 6);
  request.rank = 1;
  request.lanes = 2;
  const Schedule schedule = build(request);
  const auto texts = [](const Lane& lane) {
    std::string text;
    for (const Step& step : lane) text += describe(step) + "; ";
    return text;
  };
  CHECK_EQ(texts(schedule.lanes[0]),
           "send(peer=0 <- data[0, 0)); "
           "send(peer=2 <- data[1, 2)); recv_reduce(peer=0 -> data[0, 1)); "
           "send(peer=2 <- data[0, 1)); recv_reduce(peer=0 -> data[2, 3)); "
           "send(peer=2 <- data[2, 3)); recv(peer=0 -> data[1, 2)); "
           "send(peer=2 <- data[1, 2)); recv(peer=0 -> data[0, 1)); "
           "recv(peer=2 -> data[0, 0)); ");
  CHECK_EQ(texts(schedule.lanes[1]),
           "send(peer=2 <- data[0, 0)); "
           "send(peer=0 <- data[4, 5)); recv_reduce(peer=2 -> data[5, 6)); "
           "send(peer=0 <- data[5, 6)); recv_reduce(peer=2 -> data[3, 4)); "
           "send(peer=0 <- data[3, 4)); recv(peer=2 -> data[4, 5)); "
           "send(peer=0 <- data[4, 5)); recv(peer=2 -> data[5, 6)); "
           "recv(peer=0 -> data[0, 0)); ");
}

TEST(one_rank_copies_what_it_has) {
  for (int index = 0; index < kCollectiveCount; ++index) {
    const auto collective = static_cast<Collective>(index);
    PlanRequest request = ring_request(1, 5);
    request.collective = collective;
    request.algorithm = algorithms_of(collective).front();
    const Lane lane = build(request).lanes.front();
    const bool nothing_to_do = collective == Collective::kAllReduce ||
                               collective == Collective::kBroadcast ||
                               collective == Collective::kBarrier;
    CHECK_EQ(lane.size(), nothing_to_do ? 0u : 1u);
    CHECK(nothing_to_do || lane.front().verb == Verb::kCopy);
  }
}

TEST(trees_are_trees_and_share_no_inner_rank) {
  for (int size = 1; size <= 300; ++size) {
    const int height = static_cast<int>(std::bit_width(static_cast<unsigned>(size))) - 1;
    std::vector<int> inner(static_cast<std::size_t>(size));
    for (const int which : {0, 1}) {
      int tops = 0;
      for (int rank = 0; rank < size; ++rank) {
        const TreePlace place = place_in_tree(rank, size, which);
        const bool has_child = place.children[0] >= 0 || place.children[1] >= 0;
        inner[static_cast<std::size_t>(rank)] += has_child ? 1 : 0;
        for (const int child : place.children) {
          if (child >= 0) CHECK_EQ(place_in_tree(child, size, which).parent, rank);
        }
        int depth = 0;
        int up = rank;
        for (; place_in_tree(up, size, which).parent >= 0 && depth <= height; ++depth) {
          up = place_in_tree(up, size, which).parent;
        }
        CHECK(depth <= height);
        CHECK_EQ(up, top_of_tree(size, which));
        tops += place.parent < 0 ? 1 : 0;
      }
      CHECK_EQ(tops, 1);
    }
    for (const int times : inner) CHECK(times <= 1);
  }
}

TEST(algorithms_of_each_collective) {
  CHECK_EQ(algorithms_of(Collective::kAllReduce).size(), 5u);
  CHECK(algorithms_of(Collective::kAllReduce).front() == Algorithm::kRing);
  CHECK(algorithms_of(Collective::kBarrier).front() == Algorithm::kDirect);
  for (int index = 0; index < kCollectiveCount; ++index) {
    const auto collective = static_cast<Collective>(index);
    for (int other = 0; other < kAlgorithmCount; ++other) {
      const auto algorithm = static_cast<Algorithm>(other);
      const auto known = algorithms_of(collective);
      PlanRequest request = ring_request(4, 8);
      request.collective = collective;
      request.algorithm = algorithm;
      if (std::find(known.begin(), known.end(), algorithm) != known.end()) {
        CHECK_EQ(build(request).lanes.size(), 1u);
      } else {
        CHECK_THROWS(build(request), InvalidArgumentError, "its algorithms are: ");
      }
    }
  }
}

TEST(requests_that_cannot_be_built) {
  const auto refused = [](auto change, const char* part) {
    PlanRequest request = ring_request(4, 8);
    change(request);
    CHECK_THROWS(build(request), InvalidArgumentError, part);
  };
  const std::vector<int> three(3);
  const std::vector<int> gap{0, 0, 2, 2};
  refused([](PlanRequest& request) { request.world = 0; }, "ranks");
  refused([](PlanRequest& request) { request.world = kMaxWorld + 1; }, "ranks");
  refused([](PlanRequest& request) { request.rank = 4; }, "rank 4");
  refused([](PlanRequest& request) { request.root = -1; }, "root -1");
  refused([](PlanRequest& request) { request.lanes = 0; }, "lanes");
  refused([](PlanRequest& request) { request.element_size = 0; }, "element");
  refused([](PlanRequest& request) { request.count = uint64_t{1} << 62; }, "memory");
  refused([&](PlanRequest& request) { request.host_of = three; }, "host_of");
  refused(
      [&](PlanRequest& request) {
        request.algorithm = Algorithm::kHierarchical;
        request.host_of = gap;
      },
      "without gaps");
}

TEST(the_largest_world_is_built_quickly) {
  std::vector<int> host_of(kMaxWorld);
  for (int rank = 0; rank < kMaxWorld; ++rank) host_of[static_cast<std::size_t>(rank)] = rank / 8;
  for (const Algorithm algorithm : algorithms_of(Collective::kAllReduce)) {
    PlanRequest request = ring_request(kMaxWorld, 1'000'000);
    request.algorithm = algorithm;
    request.rank = kMaxWorld / 2;
    request.host_of = host_of;
    CHECK(build(request).lanes.front().size() <= 4 * kMaxWorld);
  }
}

}  // namespace fastgpu::test
