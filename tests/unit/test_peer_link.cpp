// One end of a link, whose peer the test plays.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "control/peer_link.h"
#include "control_parts.h"
#include "shortages.h"

namespace fastgpu {
namespace {

using Heard = std::vector<std::string>;

constexpr MemberKey kMe{.communicator = 3, .rank = 0};
constexpr PairKey kPair{.member = kMe, .peer = 1};
constexpr const char* kPeer = "fastgpu-p";

std::array<UniqueFd, 2> socket_pair() {
  std::array<int, 2> both{};
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()), 0);
  return {UniqueFd(both[0]), UniqueFd(both[1])};
}

std::vector<PeerAddress> addresses() { return {{}, {true, kPeer, {}}, {true, "fastgpu-q", {}}}; }

// The link of rank 0 to the process of rank 1.
struct PeerLinkFixture {
  EventLoop loop;
  Poller poller;
  SymmetricHeap heap;
  Registry registry{loop, 20 * kSecond};
  std::shared_ptr<test::NotingSink> sink = std::make_shared<test::NotingSink>();
  PeerLink link;
  Link peer;
  Doorbell bell = Doorbell::create();

  explicit PeerLinkFixture(const std::string& name = "fastgpu-a")
      : link({kPeer, true}, name, registry, poller, heap, [](uint32_t) {}) {
    registry.attach(kMe, sink, addresses());
  }

  void connect() {
    auto [mine, theirs] = socket_pair();
    peer = Link(std::move(theirs));
    link.set_dialling();
    link.connect(std::move(mine));
  }
  void open() {
    connect();
    CHECK(next().kind == ControlKind::kHello);
    peer.send(welcome());
    CHECK(link.on_event() == PeerLink::Next::kWait);
  }
  ControlMessage next() {
    ControlMessage message;
    CHECK(peer.receive(message) == Received::kMessage);
    return message;
  }
  bool hears_nothing() {
    ControlMessage message;
    return peer.receive(message) == Received::kNothing;
  }
  ControlMessage with_doorbell(ControlKind kind) const {
    ControlMessage message;
    message.kind = kind;
    message.failure.message = kPeer;
    message.descriptors.emplace_back(::dup(bell.page_fd()));
    message.descriptors.emplace_back(::dup(bell.event_fd()));
    return message;
  }
  ControlMessage welcome() const { return with_doorbell(ControlKind::kWelcome); }
  // From rank 1 to this rank.
  static ControlMessage message(ControlKind kind, uint32_t number = 0, const MemberKey& to = kMe) {
    ControlMessage made;
    made.kind = kind;
    made.communicator = to.communicator;
    made.generation = to.generation;
    made.from = 1;
    made.to = to.rank;
    made.number = number;
    if (kind == ControlKind::kRing) made.descriptors.push_back(create_shm_ring({}));
    return made;
  }
  void take(ControlMessage message) {
    peer.send(std::move(message));
    CHECK(link.on_event() == PeerLink::Next::kWait);
  }
};

TEST(only_the_hello_goes_before_the_welcome) {
  PeerLinkFixture fixture;
  fixture.link.set_dialling();
  fixture.link.open_ring(kPair, 2);
  fixture.connect();
  const ControlMessage hello = fixture.next();
  CHECK(hello.kind == ControlKind::kHello);
  CHECK_EQ(hello.failure.message, "fastgpu-a");
  CHECK_EQ(hello.descriptors.size(), 2U);
  CHECK(fixture.hears_nothing());
  CHECK(fixture.sink->heard.empty());
  fixture.take(fixture.welcome());
  const ControlMessage ring = fixture.next();
  CHECK(ring.kind == ControlKind::kRing);
  CHECK_EQ(ring.communicator, kMe.communicator);
  CHECK_EQ(ring.generation, 0U);
  CHECK_EQ(ring.from, 0);
  CHECK_EQ(ring.to, 1);
  CHECK_EQ(ring.number, 2U);
  CHECK_EQ(ring.descriptors.size(), 1U);
  fixture.link.open_ring(kPair, 3);
  CHECK(fixture.sink->heard == (Heard{"sender 1 2", "sender 1 3"}));
}

// Both have dialled. The peer's name is smaller, so its connection is the link.
TEST(the_messages_of_the_loser_go_over_the_winning_connection) {
  PeerLinkFixture fixture("fastgpu-z");
  fixture.link.set_dialling();
  fixture.link.open_ring(kPair, 2);
  fixture.connect();
  Link lost = std::move(fixture.peer);
  auto [mine, theirs] = socket_pair();
  fixture.peer = Link(std::move(theirs));
  CHECK(fixture.link.accept(Link(std::move(mine)), fixture.with_doorbell(ControlKind::kHello)));
  CHECK(fixture.next().kind == ControlKind::kWelcome);
  CHECK(fixture.next().kind == ControlKind::kRing);
  CHECK(fixture.sink->heard == (Heard{"sender 1 2"}));
  ControlMessage message;
  CHECK(lost.receive(message) == Received::kMessage);
  CHECK(message.kind == ControlKind::kHello);
  CHECK(lost.receive(message) == Received::kClosed);
}

TEST(the_winner_keeps_its_connection_and_closes_the_other_one) {
  PeerLinkFixture fixture;
  fixture.connect();
  auto [mine, theirs] = socket_pair();
  Link lost(std::move(theirs));
  CHECK(!fixture.link.accept(Link(std::move(mine)), fixture.with_doorbell(ControlKind::kHello)));
  ControlMessage message;
  CHECK(lost.receive(message) == Received::kNothing);  // the peer may not know yet that it lost
  CHECK(fixture.next().kind == ControlKind::kHello);
  fixture.take(fixture.welcome());
  CHECK(lost.receive(message) == Received::kClosed);
  auto [late, other] = socket_pair();
  CHECK(!fixture.link.accept(Link(std::move(late)), fixture.with_doorbell(ControlKind::kHello)));
  fixture.link.open_ring(kPair, 0);
  CHECK(fixture.next().kind == ControlKind::kRing);
}

TEST(a_leave_counts_the_rings_of_its_group) {
  PeerLinkFixture fixture;
  fixture.link.set_dialling();
  fixture.link.open_ring(kPair, 0);
  fixture.link.open_ring(kPair, 1);
  fixture.link.send_leave(kPair, "it is done");
  fixture.connect();
  CHECK(fixture.next().kind == ControlKind::kHello);
  fixture.take(fixture.welcome());
  for (int i = 0; i < 2; ++i) CHECK(fixture.next().kind == ControlKind::kRing);
  const ControlMessage leave = fixture.next();
  CHECK(leave.kind == ControlKind::kLeave);
  CHECK_EQ(leave.number, 2U);
  CHECK_EQ(leave.failure.message, "it is done");
  CHECK(fixture.link.state() == PeerLink::State::kOpen);
}

TEST(a_wrong_welcome_is_a_violation) {
  PeerLinkFixture twice;
  twice.open();
  twice.peer.send(twice.welcome());
  CHECK_THROWS(twice.link.on_event(), PeerLostError, "came on an open link");
  PeerLinkFixture stranger;
  stranger.connect();
  ControlMessage other = stranger.welcome();
  other.failure.message = "fastgpu-q";
  stranger.peer.send(std::move(other));
  CHECK_THROWS(stranger.link.on_event(), PeerLostError, "fastgpu-q answers in place of fastgpu-p");
  PeerLinkFixture early;
  early.connect();
  early.peer.send(PeerLinkFixture::message(ControlKind::kLeave));
  CHECK_THROWS(early.link.on_event(), PeerLostError, "in place of a welcome");
}

TEST(many_messages_are_read_in_turns) {
  PeerLinkFixture fixture;
  fixture.open();
  for (int i = 0; i < 100; ++i) fixture.peer.send(fixture.message(ControlKind::kFail));
  CHECK(fixture.link.on_event() == PeerLink::Next::kMore);
  CHECK(fixture.sink->heard.size() < 100);
  while (!fixture.peer.all_sent() || fixture.sink->heard.size() < 100) {
    fixture.link.on_event();
    fixture.peer.flush();
  }
  CHECK_EQ(fixture.sink->heard.size(), 100U);
}

TEST(descriptors_that_cannot_be_taken_are_a_shortage_of_this_process) {
  PeerLinkFixture fixture;
  fixture.open();
  fixture.peer.send(fixture.message(ControlKind::kRing));
  {
    const test::NoDescriptors none;
    CHECK_THROWS(fixture.link.on_event(), OutOfResourcesError, "cannot take the descriptors");
  }
  Failure failure;
  failure.message = "rank 0 ran out of file descriptors";
  fixture.link.send_failure(kPair, failure);
  CHECK(fixture.next().kind == ControlKind::kFail);
}

TEST(what_the_peer_said_before_its_end_still_counts) {
  PeerLinkFixture fixture;
  fixture.open();
  fixture.peer.send(fixture.message(ControlKind::kLeave));
  fixture.peer = Link();
  CHECK(fixture.link.on_event() == PeerLink::Next::kEnd);
  CHECK(fixture.sink->heard == (Heard{"left 1 "}));
}

TEST(messages_are_held_until_their_group_is_attached) {
  PeerLinkFixture fixture;
  fixture.open();
  constexpr MemberKey kLater{.communicator = 4, .rank = 0};
  const auto later = std::make_shared<test::NotingSink>();
  fixture.registry.expect(kLater, addresses());
  fixture.take(fixture.message(ControlKind::kRing, 0, kLater));
  fixture.take(fixture.message(ControlKind::kRing, 1, kLater));
  fixture.take(fixture.message(ControlKind::kRing, 0));  // another group goes on
  fixture.take(fixture.message(ControlKind::kLeave, 2, kLater));
  CHECK(fixture.sink->heard == (Heard{"receiver 1 0"}));
  CHECK(later->heard.empty());
  fixture.link.close();  // the peer has ended meanwhile
  CHECK(fixture.link.holds_any());
  fixture.registry.attach(kLater, later, addresses());
  fixture.link.resume(kMe);
  CHECK(fixture.link.holds_any());
  fixture.link.resume(kLater);
  CHECK(!fixture.link.holds_any());
  CHECK(later->heard == (Heard{"receiver 1 0", "receiver 1 1", "left 1 "}));
}

TEST(a_link_that_would_hold_too_much_fails) {
  PeerLinkFixture fixture;
  fixture.open();
  constexpr MemberKey kLater{.communicator = 4, .rank = 0};
  fixture.registry.expect(kLater, addresses());
  for (std::size_t i = 0; i < PeerLink::kMostHeld; ++i) {
    fixture.link.handle(fixture.message(ControlKind::kFail, 0, kLater));
  }
  CHECK_THROWS(fixture.link.handle(fixture.message(ControlKind::kFail, 0, kLater)), PeerLostError,
               "more than 1024 messages for groups that this process has not made yet");
}

TEST(a_message_for_a_group_that_has_ended_is_dropped_and_a_ring_answered) {
  PeerLinkFixture fixture;
  fixture.open();
  fixture.registry.detach(kMe);
  for (const ControlKind kind : {ControlKind::kFail, ControlKind::kLeave, ControlKind::kRing}) {
    fixture.take(fixture.message(kind, 5));
  }
  const ControlMessage answer = fixture.next();
  CHECK(answer.kind == ControlKind::kLeave);
  CHECK_EQ(answer.communicator, kMe.communicator);
  CHECK_EQ(answer.from, 0);
  CHECK_EQ(answer.to, 1);
  CHECK_EQ(answer.number, 0U);
  CHECK(fixture.hears_nothing());
  CHECK(fixture.sink->heard.empty());
}

TEST(a_message_of_another_generation_does_not_reach_the_group) {
  constexpr MemberKey kSecond{.communicator = 3, .rank = 0, .generation = 1};
  for (const uint32_t generation : {0U, 2U, 0xffffffffU}) {
    PeerLinkFixture fixture;
    fixture.open();
    fixture.registry.detach(kMe);
    fixture.registry.attach(kSecond, fixture.sink, addresses());
    MemberKey other = kSecond;
    other.generation = generation;
    for (const ControlKind kind : {ControlKind::kRing, ControlKind::kFail, ControlKind::kLeave}) {
      fixture.take(fixture.message(kind, 0, other));
    }
    CHECK(fixture.sink->heard.empty());
    const ControlMessage answer = fixture.next();  // to the ring
    CHECK(answer.kind == ControlKind::kLeave);
    CHECK_EQ(answer.generation, generation);
    fixture.take(fixture.message(ControlKind::kRing, 0, kSecond));
    CHECK(fixture.sink->heard == (Heard{"receiver 1 0"}));
  }
}

TEST(a_process_speaks_for_its_own_ranks_only) {
  for (const int from : {-1, 0, 2, 3}) {
    PeerLinkFixture fixture;
    fixture.open();
    ControlMessage message = fixture.message(ControlKind::kLeave);
    message.from = from;
    fixture.peer.send(std::move(message));
    CHECK_THROWS(fixture.link.on_event(), PeerLostError, "broke the control protocol");
    CHECK(fixture.sink->heard.empty());
  }
}

TEST(a_segment_is_passed_once_for_all_groups) {
  PeerLinkFixture fixture;
  fixture.open();
  fixture.heap.allocate(1);
  for (int group = 0; group < 3; ++group) fixture.link.send_segment(0);
  const ControlMessage segment = fixture.next();
  CHECK(segment.kind == ControlKind::kSegment);
  CHECK_EQ(segment.number, 0U);
  CHECK(fixture.hears_nothing());
}

TEST(a_link_to_the_process_itself_hands_its_messages_back) {
  PeerLinkFixture fixture;
  std::vector<ControlMessage> sent;
  fixture.link.set_dialling();
  fixture.link.open_ring(kPair, 4);
  fixture.link.open_to_self([&](ControlMessage message) { sent.push_back(std::move(message)); });
  fixture.link.send_leave(kPair, "");
  CHECK_EQ(sent.size(), 2U);
  CHECK(fixture.sink->heard == (Heard{"sender 1 4"}));
  const auto other = std::make_shared<test::NotingSink>();
  fixture.registry.attach({3, 1}, other, {{true, kPeer, {}}, {}});
  for (ControlMessage& message : sent) fixture.link.handle(std::move(message));
  CHECK(other->heard == (Heard{"receiver 0 4", "left 0 "}));
}

}  // namespace
}  // namespace fastgpu
