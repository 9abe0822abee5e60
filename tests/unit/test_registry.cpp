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

constexpr MemberKey kMyKey{.communicator = 77, .rank = 0};

PairKey with(int peer) { return {kMyKey, peer}; }

// A communicator of 3 ranks, of which this is rank 0.
struct RegistryFixture {
  explicit RegistryFixture(TimeNs leave_limit = 20 * kSecond) : registry(loop, leave_limit) {
    registry.attach(kMyKey, sink, std::vector<PeerAddress>(3));
  }
  void run_timers() { loop.run_once(now_ns()); }

  EventLoop loop;
  Registry registry;
  std::shared_ptr<test::NotingSink> sink = std::make_shared<test::NotingSink>();
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
  fixture.registry.link_ended(with(1), "its process ended");
  CHECK(fixture.sink->heard.empty());
  fixture.arrive(1, 0);
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0", "left 1 "}));
}

TEST(channels_that_arrive_before_the_limit_do_not_lose_the_peer) {
  RegistryFixture fixture(/*leave_limit=*/0);
  fixture.registry.leave(with(1), 1, "");
  fixture.arrive(1, 0);
  fixture.run_timers();
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0", "left 1 "}));
}

TEST(only_the_first_leave_counts) {
  RegistryFixture fixture;
  fixture.registry.leave(with(1), 1, "first");
  fixture.registry.leave(with(1), 0, "second");
  CHECK(fixture.sink->heard.empty());
  fixture.arrive(1, 0);
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0", "left 1 first"}));
}

TEST(a_link_that_ends_without_leave_loses_the_peer) {
  RegistryFixture fixture;
  fixture.registry.link_ended(with(1), "its process ended");
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
  RegistryFixture fixture(/*leave_limit=*/0);
  fixture.registry.leave(with(1), std::numeric_limits<uint32_t>::max(), "");
  fixture.arrive(1, 0);
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0"}));
  fixture.run_timers();
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

TEST(a_shortage_fails_an_expected_communicator_when_it_is_attached) {
  RegistryFixture fixture;
  constexpr MemberKey kNext{.communicator = 78, .rank = 0};
  constexpr MemberKey kOther{.communicator = 79, .rank = 0};
  std::vector<PeerAddress> peers(2);
  peers[1].unix_name = "fastgpu-q";
  fixture.registry.expect(kOther, peers);
  peers[1].unix_name = "fastgpu-p";
  fixture.registry.expect(kNext, peers);
  const LinkKey link{"fastgpu-p", true};
  fixture.registry.give_up(link, make_failure(ErrorKind::kPeerLost, "it cannot be reached"));
  fixture.registry.give_up(link, make_failure(ErrorKind::kOutOfResources, "ran out of memory"));
  CHECK(fixture.sink->heard.empty());
  fixture.registry.attach(kOther, fixture.sink, std::vector<PeerAddress>(2));
  CHECK(fixture.sink->heard.empty());
  fixture.registry.attach(kNext, fixture.sink, std::vector<PeerAddress>(2));
  CHECK(fixture.sink->heard == (Heard{"failed -1 ran out of memory"}));
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
  CHECK(fixture.registry.state(kMyKey) == Registry::State::kAttached);
  fixture.registry.detach(kMyKey);
  CHECK(fixture.registry.state(kMyKey) == Registry::State::kUnknown);
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

TEST(an_expected_communicator_knows_the_processes_of_its_peers) {
  RegistryFixture fixture;
  constexpr MemberKey kNext{.communicator = 78, .rank = 0};
  CHECK(!fixture.registry.knows({"fastgpu-p", true}));
  fixture.registry.expect(kNext, {{}, {false, "fastgpu-p", {}}});
  for (const bool is_unix : {true, false}) CHECK(fixture.registry.knows({"fastgpu-p", is_unix}));
  CHECK(fixture.registry.state(kNext) == Registry::State::kExpected);
  fixture.registry.lose({kNext, 1}, "early");
  fixture.registry.fail_all(make_failure(ErrorKind::kOutOfResources, "ran out of memory"));
  fixture.registry.check_peer({kNext, 5});
  CHECK(fixture.registry.peers_of(kNext).empty());
  CHECK(fixture.registry.find({kNext, 1}) == nullptr);
  MemberKey other = kNext;
  other.generation = 1;
  CHECK(fixture.registry.state(other) == Registry::State::kUnknown);
}

TEST(a_link_reaches_the_ranks_of_its_process_that_have_not_departed) {
  RegistryFixture fixture;
  const PeerAddress unix_address{true, "fastgpu-p", {}};
  const PeerAddress tcp_address{false, "fastgpu-p", {}};
  const PeerAddress other{true, "fastgpu-q", {}};
  constexpr MemberKey kFirst{.communicator = 1, .rank = 0};
  constexpr MemberKey kSecond{.communicator = 2, .rank = 3};
  fixture.registry.attach(kFirst, fixture.sink, {{}, unix_address, other, unix_address});
  fixture.registry.attach(kSecond, fixture.sink, {unix_address, tcp_address, other, {}});
  fixture.registry.lose({kFirst, 3}, "gone");
  CHECK(fixture.registry.knows({"fastgpu-q", true}));
  CHECK(!fixture.registry.knows({"fastgpu-q", false}));
  const std::vector<PairKey> behind = fixture.registry.peers_behind({"fastgpu-p", true});
  CHECK(behind == (std::vector<PairKey>{{kFirst, 1}, {kSecond, 0}}));
  fixture.registry.check_peer({kSecond, 0}, {"fastgpu-p", true});
  CHECK_THROWS(fixture.registry.check_peer({kSecond, 1}, {"fastgpu-p", true}), PeerLostError,
               "it speaks for rank 1, which is another process");
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
