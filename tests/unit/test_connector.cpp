// Connectors connect to other connectors, and tell their communicators about peers and shortages.
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "control_ranks.h"
#include "patience.h"
#include "shortages.h"

namespace fastgpu::test {
namespace {

TEST(a_channel_opens_and_its_opener_leaves) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    Rank right(1);
    left.attach({{}, right.address(shared_memory), {}});
    right.attach({left.address(shared_memory), {}, {}});
    for (const int lane : {0, 4}) left.connector.open({{kGroup, 0}, 1}, lane);
    for (const int lane : {0, 4}) {
      left.sink->wait_for(lanes_text("sender", 1, lane));
      right.sink->wait_for(lanes_text("receiver", 0, lane));
    }
    left.connector.detach({kGroup, 0}, "it is done");
    CHECK_EQ(right.sink->wait_for("left 0"), "left 0 it is done");
    CHECK_EQ(left.sink->count(), 2U);
  }
}

TEST(a_channel_may_be_opened_before_the_peer_attaches) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    Rank right(1);
    right.connector.expect({kGroup, 1}, {left.address(shared_memory), {}, {}});
    left.attach({{}, right.address(shared_memory), {}});
    left.connector.open({{kGroup, 0}, 1}, 2);
    if (!shared_memory) left.sink->wait_for("sender 1 2");
    right.attach({left.address(shared_memory), {}, {}});
    left.sink->wait_for("sender 1 2");
    right.sink->wait_for("receiver 0 2");
  }
}

TEST(device_memory_is_passed_and_confirmed) {
  Rank left(0);
  Rank right(1);
  left.attach({{}, right.address(true), {}});
  right.attach({left.address(true), {}, {}});
  left.connector.pass_device_segment({{kGroup, 0}, 1}, 3, 4096, duplicate(0, "a file"));
  CHECK_EQ(right.sink->wait_for("segment 0"), "segment 0 3 4096");
  right.connector.confirm_device_segment({{kGroup, 1}, 0}, 3);
  CHECK_EQ(left.sink->wait_for("mapped 1"), "mapped 1 3");
}

TEST(a_failure_reaches_the_linked_ranks) {
  Rank left(0);
  Rank right(1);
  left.attach({{}, right.address(true), {}});
  right.attach({left.address(true), {}, {}});
  left.connector.open({{kGroup, 0}, 1}, 0);
  right.sink->wait_for("receiver 0 0");
  Failure failure;
  failure.message = "out of memory";
  left.connector.fail({kGroup, 0}, failure);
  CHECK_EQ(right.sink->wait_for("failed 0"), "failed 0 out of memory");
  failure.message = "too late";
  right.connector.fail({kGroup, 1}, failure);
  CHECK_EQ(left.sink->wait_for("failed 1"), "failed 1 too late");
}

TEST(a_peer_whose_process_ends_is_lost) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    auto right = std::make_unique<Rank>(1);
    left.attach({{}, right->address(shared_memory), {}});
    right->attach({left.address(shared_memory), {}, {}});
    left.connector.open({{kGroup, 0}, 1}, 0);
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
    left.connector.open({{kGroup, 0}, 1}, 0);
    CHECK(left.sink->wait_for("lost 1").find("cannot be reached") != std::string::npos);
    left.connector.open({{kGroup, 0}, 1}, 1);
    left.connector.detach({kGroup, 0}, "it is done");
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
    right.connector.open({{kGroup, 1}, 0}, 0);
    left.sink->wait_for("receiver 1 0");
    for (Rank* rank : {&left, &right}) rank->settle();  // neither closes a descriptor afterwards
    std::string heard;
    {
      const NoDescriptors none;
      left.connector.open({{kGroup, 0}, 1}, 0);
      heard = left.sink->wait_for("failed -1");
    }
    CHECK(heard.find("ran out of file descriptors: ") != std::string::npos);
    Failure failure = make_failure(ErrorKind::kOutOfResources, heard, 0);
    left.connector.fail({kGroup, 0}, failure);
    CHECK_EQ(right.sink->wait_for("failed 0"), "failed 0 " + heard);
  }
}

// Opens channels in a group of two ranks, from both sides.
void open_channels(Rank& left, Rank& right, uint64_t group, bool shared_memory, int lane) {
  left.attach({{}, right.address(shared_memory), {}}, group);
  right.attach({left.address(shared_memory), {}, {}}, group);
  for (Rank* rank : {&left, &right}) {
    rank->connector.open({{group, rank->rank}, 1 - rank->rank}, lane);
  }
  for (Rank* rank : {&left, &right}) {
    const int peer = 1 - rank->rank;
    rank->sink->wait_for(lanes_text("sender", peer, lane));
    rank->sink->wait_for(lanes_text("receiver", peer, lane));
  }
}

// The sinks of both groups are the same, so the notes of a second group are further notes.
TEST(a_group_ends_and_another_one_of_its_processes_goes_on) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    Rank right(1);
    open_channels(left, right, kGroup, shared_memory, 0);
    open_channels(left, right, kGroup + 1, shared_memory, 1);
    left.connector.detach({kGroup, 0}, "it is done");
    CHECK_EQ(right.sink->wait_for("left 0"), "left 0 it is done");
    right.connector.detach({kGroup, 1}, "");
    for (const int lane : {2, 3}) {
      left.connector.open({{kGroup + 1, 0}, 1}, lane);
      left.sink->wait_for(lanes_text("sender", 1, lane));
      right.sink->wait_for(lanes_text("receiver", 0, lane));
    }
    left.connector.detach({kGroup + 1, 0}, "");
    open_channels(left, right, kGroup + 2, shared_memory, 4);
    CHECK_EQ(right.sink->count_of("lost"), 0U);
    CHECK_EQ(left.sink->count_of("lost"), 0U);
  }
}

TEST(the_end_of_a_link_loses_the_ranks_of_its_process_in_every_group) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    auto right = std::make_unique<Rank>(1);
    for (const int lane : {0, 1, 2}) {
      open_channels(left, *right, kGroup + static_cast<uint64_t>(lane), shared_memory, lane);
    }
    right->connector.detach({kGroup + 1, 1}, "it is done");
    left.sink->wait_for("left 1 it is done");
    // A group in which the two have not spoken yet.
    left.attach({{}, right->address(shared_memory), {}}, kGroup + 3);
    right.reset();
    left.sink->wait_for_count("lost 1 its process ended", 3);
    CHECK_EQ(left.sink->count_of("left"), 1U);
  }
}

TEST(a_process_that_has_left_its_groups_ends_and_nobody_is_lost) {
  for (const bool shared_memory : {true, false}) {
    Rank left(0);
    auto right = std::make_unique<Rank>(1);
    for (const uint64_t group : {kGroup, kGroup + 1}) {
      open_channels(left, *right, group, shared_memory, static_cast<int>(group - kGroup));
    }
    for (const uint64_t group : {kGroup, kGroup + 1}) right->connector.detach({group, 1}, "");
    right.reset();
    left.sink->wait_for_count("left 1", 2);
    // A new process of that rank, whose first channel comes after the end of the old link.
    Rank again(1);
    open_channels(left, again, kGroup + 2, shared_memory, 5);
    CHECK_EQ(left.sink->count_of("lost"), 0U);
  }
}

// Both processes dial before either can have received a hello.
TEST(both_may_dial_at_once) {
  for (const bool shared_memory : {true, false}) {
    for (int round = 0; round < 50; ++round) {
      Rank left(0);
      Rank right(1);
      open_channels(left, right, kGroup, shared_memory, 0);
      open_channels(left, right, kGroup + 1, shared_memory, 1);
      left.connector.detach({kGroup, 0}, "");
      right.sink->wait_for("left 0");
      CHECK_EQ(left.sink->count_of("lost") + right.sink->count_of("lost"), 0U);
    }
  }
}

// All processes are this one. Each of the three pairs has one connection with two ends and, over
// unix sockets, two doorbells. The sinks close the channels at once.
TEST(groups_of_the_same_processes_use_the_same_links) {
  for (const bool shared_memory : {true, false}) {
    std::vector<std::unique_ptr<Rank>> ranks;
    std::vector<PeerAddress> addresses;
    for (int rank = 0; rank < 3; ++rank) {
      ranks.push_back(std::make_unique<Rank>(rank));
      addresses.push_back(ranks.back()->address(shared_memory));
    }
    const std::size_t expected = open_descriptors() + (shared_memory ? 12U : 6U);
    for (const int group : {0, 1, 2, 3, 4}) {
      const uint64_t id = kGroup + static_cast<uint64_t>(group);
      for (const auto& rank : ranks) rank->attach(addresses, id);
      for (const auto& rank : ranks) {
        for (int peer = 0; peer < 3; ++peer) {
          if (peer != rank->rank) rank->connector.open({{id, rank->rank}, peer}, group);
        }
      }
      for (const auto& rank : ranks) {
        for (int peer = 0; peer < 3; ++peer) {
          if (peer == rank->rank) continue;
          rank->sink->wait_for(lanes_text("sender", peer, group));
          rank->sink->wait_for(lanes_text("receiver", peer, group));
        }
      }
      // If both have dialled, the second connection ends a little later.
      CHECK(comes_true([&] { return open_descriptors() == expected; }));
    }
  }
}

TEST(ranks_of_one_process_connect_without_a_socket) {
  Rank both(0);
  const auto other = std::make_shared<WaitingSink>();
  const std::vector<PeerAddress> addresses(2, both.address(true));
  both.attach(addresses);
  both.connector.attach({kGroup, 1}, other, addresses);
  const std::size_t descriptors = open_descriptors();
  both.connector.open({{kGroup, 0}, 1}, 0);
  both.connector.open({{kGroup, 1}, 0}, 0);
  both.sink->wait_for("sender 1 0");
  both.sink->wait_for("receiver 1 0");
  other->wait_for("sender 0 0");
  other->wait_for("receiver 0 0");
  const std::size_t expected = descriptors + 1;  // the process's doorbell
  CHECK(comes_true([&] { return open_descriptors() == expected; }));
  both.connector.detach({kGroup, 1}, "it is done");
  CHECK_EQ(both.sink->wait_for("left 1"), "left 1 it is done");
}

TEST(a_channel_to_a_rank_that_has_left_unheard_tells_so) {
  Rank left(0);
  Rank right(1);
  for (Rank* rank : {&left, &right}) {
    rank->attach({left.address(true), right.address(true), {}});
    rank->attach({left.address(true), right.address(true), {}}, kGroup + 1);
  }
  right.connector.detach({kGroup, 1}, "it is done");  // nobody is linked to it
  left.connector.open({{kGroup, 0}, 1}, 0);
  CHECK_EQ(left.sink->wait_for("left 1"), "left 1 ");
  left.connector.open({{kGroup + 1, 0}, 1}, 7);
  right.sink->wait_for("receiver 0 7");
  right.connector.detach({kGroup + 1, 1}, "");
  Rank late(0);
  late.attach({late.address(true), right.address(true), {}});
  late.connector.open({{kGroup, 0}, 1}, 0);
  CHECK_EQ(late.sink->wait_for("failed 1"),
           "failed 1 rank 1 has left the groups that it had with this rank");
}

TEST(memory_can_be_mapped_within_a_machine) {
  Rank left(0);
  Rank right(1);
  CHECK(left.connector.probe(right.connector.unix_name(), now_ns() + 20 * kSecond));
  CHECK(!left.connector.probe("fastgpu-no-such-process", now_ns() + 20 * kSecond));
}

}  // namespace
}  // namespace fastgpu::test
