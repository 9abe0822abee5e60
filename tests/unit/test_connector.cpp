// Connectors connect to other connectors, and tell their communicators about peers and shortages.
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "control_ranks.h"
#include "shortages.h"

namespace fastgpu::test {
namespace {

TEST(a_channel_opens_and_its_opener_leaves) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    Rank right(1);
    left.attach({{}, right.address(shared_memory), {}});
    right.attach({left.address(shared_memory), {}, {}});
    for (const int lane : {0, 4}) left.connector.open(kGroup, 0, 1, lane);
    for (const int lane : {0, 4}) {
      left.sink->wait_for(lanes_text("sender", 1, lane));
      right.sink->wait_for(lanes_text("receiver", 0, lane));
    }
    left.connector.detach(kGroup, 0, "it is done");
    CHECK_EQ(right.sink->wait_for("left 0"), "left 0 it is done");
    CHECK_EQ(left.sink->count(), 2U);
  }
}

TEST(a_channel_may_be_opened_before_the_peer_attaches) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    Rank right(1);
    left.attach({{}, right.address(shared_memory), {}});
    left.connector.open(kGroup, 0, 1, 2);
    if (!shared_memory) left.sink->wait_for("sender 1 2");
    right.attach({left.address(shared_memory), {}, {}});
    left.sink->wait_for("sender 1 2");
    right.sink->wait_for("receiver 0 2");
  }
}

TEST(a_failure_reaches_the_linked_ranks) {
  Rank left(0);
  Rank right(1);
  left.attach({{}, right.address(true), {}});
  right.attach({left.address(true), {}, {}});
  left.connector.open(kGroup, 0, 1, 0);
  right.sink->wait_for("receiver 0 0");
  Failure failure;
  failure.message = "out of memory";
  left.connector.fail(kGroup, 0, failure);
  CHECK_EQ(right.sink->wait_for("failed 0"), "failed 0 out of memory");
  failure.message = "too late";
  right.connector.fail(kGroup, 1, failure);
  CHECK_EQ(left.sink->wait_for("failed 1"), "failed 1 too late");
}

TEST(a_peer_whose_process_ends_is_lost) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    auto right = std::make_unique<Rank>(1);
    left.attach({{}, right->address(shared_memory), {}});
    right->attach({left.address(shared_memory), {}, {}});
    left.connector.open(kGroup, 0, 1, 0);
    right->sink->wait_for("receiver 0 0");
    right.reset();
    CHECK(left.sink->wait_for("lost 1").find("its process ended") != std::string::npos);
  }
}

TEST(a_peer_that_cannot_be_reached_is_lost) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    auto right = std::make_unique<Rank>(1);
    const PeerAddress address = right->address(shared_memory);
    right.reset();
    left.attach({{}, address, {}});
    left.connector.open(kGroup, 0, 1, 0);
    CHECK(left.sink->wait_for("lost 1").find("cannot be reached") != std::string::npos);
    left.connector.open(kGroup, 0, 1, 1);
    left.connector.detach(kGroup, 0, "it is done");
    CHECK_EQ(left.sink->count(), 1U);
  }
}

// Its own shortage: the peer is healthy, and hears the reason as soon as there is a way.
TEST(a_rank_without_descriptors_fails_and_loses_nobody) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    Rank right(1);
    left.attach({{}, right.address(shared_memory), {}});
    right.attach({left.address(shared_memory), {}, {}});
    right.connector.open(kGroup, 1, 0, 0);
    left.sink->wait_for("receiver 1 0");
    std::string heard;
    {
      const NoDescriptors none;
      left.connector.open(kGroup, 0, 1, 0);
      heard = left.sink->wait_for("failed -1");
    }
    CHECK(heard.find("ran out of file descriptors: ") != std::string::npos);
    Failure failure = make_failure(ErrorKind::kOutOfResources, heard, 0);
    left.connector.fail(kGroup, 0, failure);
    CHECK_EQ(right.sink->wait_for("failed 0"), "failed 0 " + heard);
  }
}

// Both processes are this one. A further group costs each of them a link in each direction, and no
// doorbell.
TEST(groups_of_one_pair_share_its_doorbells) {
  Rank left(0);
  Rank right(1);
  std::vector<std::size_t> descriptors;
  for (const uint64_t group : {kGroup, kGroup + 1, kGroup + 2}) {
    descriptors.push_back(open_descriptors());
    left.attach({{}, right.address(true), {}}, group);
    right.attach({left.address(true), {}, {}}, group);
    for (const int lane : {0, 1, 2, 3}) {
      const int number = lane + 10 * static_cast<int>(group - kGroup);
      left.connector.open(group, 0, 1, number);
      right.connector.open(group, 1, 0, number);
      for (Rank* rank : {&left, &right}) {
        const int peer = 1 - rank->rank;
        rank->sink->wait_for(lanes_text("sender", peer, number));
        rank->sink->wait_for(lanes_text("receiver", peer, number));
      }
    }
  }
  descriptors.push_back(open_descriptors());
  CHECK_EQ(descriptors[1] - descriptors[0], 4U + 2U);  // sockets, doorbells
  CHECK_EQ(descriptors[2] - descriptors[1], 4U);
  CHECK_EQ(descriptors[3] - descriptors[2], 4U);
}

TEST(memory_can_be_mapped_within_a_machine) {
  Rank left(0);
  Rank right(1);
  CHECK(left.connector.probe(right.connector.unix_name(), now_ns() + 20 * kSecond));
  CHECK(!left.connector.probe("fastgpu-no-such-process", now_ns() + 20 * kSecond));
}

}  // namespace
}  // namespace fastgpu::test
