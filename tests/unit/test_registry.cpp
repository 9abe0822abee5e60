#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "control_parts.h"

namespace fastgpu {
namespace {

using Heard = std::vector<std::string>;

constexpr MemberKey kMe{.communicator = 77, .rank = 0};

PairKey with(int peer) { return {kMe, peer}; }

// A communicator of 3 ranks, of which this is rank 0.
struct RegistryFixture {
  Registry registry;
  std::shared_ptr<test::NotingSink> sink = std::make_shared<test::NotingSink>();

  RegistryFixture() { registry.attach(kMe, sink, std::vector<PeerAddress>(3)); }
  void arrive(int peer, int lane) {
    registry.channel_arrived(with(peer), lane, std::make_unique<test::QuietReceiver>());
  }
};

TEST(channels_go_to_the_communicator) {
  RegistryFixture fixture;
  fixture.arrive(1, 4);
  fixture.registry.channel_opened(with(2), 3, std::make_unique<test::QuietSender>());
  CHECK(fixture.sink->heard == (Heard{"receiver 1 4", "sender 2 3"}));
}

TEST(a_peer_departs_when_the_last_of_its_channels_has_arrived) {
  RegistryFixture fixture;
  fixture.arrive(1, 0);
  fixture.registry.leave(with(1), 3, "");
  fixture.arrive(1, 1);
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0", "receiver 1 1"}));
  CHECK(fixture.registry.find(with(1)) != nullptr);
  fixture.arrive(1, 2);
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0", "receiver 1 1", "receiver 1 2", "left 1 "}));
  CHECK(fixture.registry.find(with(1)) == nullptr);
}

TEST(a_peer_that_opened_nothing_departs_at_once) {
  RegistryFixture fixture;
  fixture.registry.leave(with(2), 0, "its program ended");
  CHECK(fixture.sink->heard == (Heard{"left 2 its program ended"}));
}

TEST(a_link_may_end_after_leave_and_before_the_channels) {
  RegistryFixture fixture;
  fixture.registry.leave(with(1), 1, "");
  CHECK(fixture.registry.link_ended(with(1), "its process ended"));
  CHECK(fixture.sink->heard.empty());
  fixture.arrive(1, 0);
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0", "left 1 "}));
  fixture.registry.lose_incomplete(with(1));
  CHECK_EQ(fixture.sink->heard.size(), 2U);
}

TEST(a_link_that_ends_without_leave_loses_the_peer) {
  RegistryFixture fixture;
  CHECK(!fixture.registry.link_ended(with(1), "its process ended"));
  CHECK(fixture.sink->heard == (Heard{"lost 1 its process ended"}));
  CHECK(fixture.registry.find(with(1)) == nullptr);
  CHECK(fixture.registry.find(with(2)) != nullptr);
}

TEST(a_peer_departs_once) {
  RegistryFixture fixture;
  fixture.registry.lose(with(1), "first");
  fixture.registry.lose(with(1), "second");
  fixture.registry.link_ended(with(1), "third");
  fixture.registry.leave(with(1), 0, "");
  fixture.registry.leave(with(2), 0, "");
  fixture.registry.leave(with(2), 0, "");
  fixture.registry.lose(with(2), "late");
  CHECK(fixture.sink->heard == (Heard{"lost 1 first", "left 2 "}));
}

TEST(a_peer_that_leaves_with_an_absurd_count_is_lost_in_the_end) {
  RegistryFixture fixture;
  fixture.registry.leave(with(1), std::numeric_limits<uint32_t>::max(), "");
  fixture.arrive(1, 0);
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0"}));
  CHECK(fixture.registry.link_ended(with(1), "its process ended"));
  fixture.registry.lose_incomplete(with(1));
  CHECK_EQ(fixture.sink->heard.back(),
           "lost 1 it left the group after it had opened 4294967295 channels, but only 1 of them "
           "arrived");
}

TEST(a_shortage_fails_the_communicator_and_loses_nobody) {
  RegistryFixture fixture;
  const Failure shortage = make_failure(ErrorKind::kOutOfResources, "ran out of memory");
  fixture.registry.give_up(with(1), shortage);
  fixture.registry.fail_all(shortage);
  fixture.registry.give_up(with(1), make_failure(ErrorKind::kPeerLost, "it cannot be reached"));
  CHECK(fixture.sink->heard == (Heard{"failed -1 ran out of memory", "failed -1 ran out of memory",
                                      "lost 1 it cannot be reached"}));
}

TEST(a_lane_opened_twice_is_refused) {
  RegistryFixture fixture;
  fixture.arrive(1, 5);
  CHECK_THROWS(fixture.arrive(1, 5), PeerLostError, "rank 1 opened lane 5 twice");
  fixture.arrive(2, 5);
  CHECK(fixture.sink->heard == (Heard{"receiver 1 5", "receiver 2 5"}));
}

TEST(opened_channels_are_counted_by_peer) {
  RegistryFixture fixture;
  fixture.registry.count_opened(with(1));
  fixture.registry.count_opened(with(1));
  fixture.registry.count_opened(with(2));
  CHECK_EQ(fixture.registry.opened(with(1)), 2U);
  CHECK_EQ(fixture.registry.opened(with(2)), 1U);
}

TEST(a_reported_failure_goes_to_the_communicator) {
  RegistryFixture fixture;
  Failure failure;
  failure.message = "out of memory";
  for (const int suspect : {kNoRank, 0, 1, 2}) {
    failure.peer = suspect;
    fixture.registry.fail(with(1), failure);
    CHECK_EQ(fixture.sink->suspect, suspect);
  }
  CHECK_EQ(fixture.sink->heard.size(), 4U);
  CHECK_EQ(fixture.sink->heard[0], "failed 1 out of memory");
}

TEST(a_report_of_a_rank_that_does_not_exist_makes_its_sender_the_suspect) {
  RegistryFixture fixture;
  Failure failure;
  for (const int suspect :
       {-2, 3, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    failure.peer = suspect;
    fixture.registry.fail(with(2), failure);
    CHECK_EQ(fixture.sink->suspect, 2);
    fixture.sink->suspect = kNoRank;
  }
}

TEST(a_connection_must_come_from_another_rank_of_the_group) {
  RegistryFixture fixture;
  fixture.registry.check_peer(with(1));
  fixture.registry.check_peer(with(2));
  for (const int rank : {-1, 0, 3, std::numeric_limits<int>::max()}) {
    CHECK_THROWS(fixture.registry.check_peer(with(rank)), PeerLostError,
                 "claims to come from rank " + std::to_string(rank));
    CHECK(rank == 0 || fixture.registry.find(with(rank)) == nullptr);
  }
}

TEST(a_detached_communicator_hears_nothing) {
  RegistryFixture fixture;
  CHECK(fixture.registry.has(kMe));
  fixture.registry.detach(kMe);
  CHECK(!fixture.registry.has(kMe));
  fixture.arrive(1, 0);
  fixture.registry.channel_opened(with(1), 0, std::make_unique<test::QuietSender>());
  fixture.registry.count_opened(with(1));
  fixture.registry.leave(with(1), 0, "");
  fixture.registry.lose(with(1), "late");
  fixture.registry.link_ended(with(1), "late");
  fixture.registry.fail(with(1), {});
  fixture.registry.check_peer(with(1));
  CHECK_EQ(fixture.registry.opened(with(1)), 0U);
  CHECK(fixture.registry.find(with(1)) == nullptr);
  CHECK(fixture.sink->heard.empty());
}

TEST(communicators_and_ranks_are_kept_apart) {
  RegistryFixture fixture;
  const auto other = std::make_shared<test::NotingSink>();
  fixture.registry.attach({78, 0}, other, std::vector<PeerAddress>(3));
  fixture.registry.lose({{78, 0}, 1}, "its process ended");
  CHECK(fixture.sink->heard.empty());
  CHECK(other->heard == (Heard{"lost 1 its process ended"}));
}

}  // namespace
}  // namespace fastgpu
