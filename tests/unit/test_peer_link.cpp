#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "check.h"
#include "control/peer_link.h"
#include "control_parts.h"
#include "shortages.h"

namespace fastgpu {
namespace {

constexpr MemberKey kMe{.communicator = 3, .rank = 0};
constexpr PairKey kPair{.member = kMe, .peer = 1};

// A dialled link of rank 0 to rank 1, which the test plays.
struct PeerLinkFixture {
  Poller poller;
  SymmetricHeap heap;
  Registry registry;
  ChannelBroker broker{poller, heap};
  std::shared_ptr<test::NotingSink> sink = std::make_shared<test::NotingSink>();
  PeerLink link{{.pair = kPair, .is_dialled = true}, registry, broker, [](uint32_t) {}};
  Link peer;
  Doorbell bell = Doorbell::create();

  PeerLinkFixture() { registry.attach(kMe, sink, std::vector<PeerAddress>(2)); }

  void connect() {
    std::array<int, 2> both{};
    CHECK_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()),
             0);
    peer.connect(UniqueFd(both[1]));
    link.connect(UniqueFd(both[0]), /*is_unix=*/true);
  }
  ControlMessage next() {
    ControlMessage message;
    CHECK(peer.receive(message) == Received::kMessage);
    CHECK_EQ(message.communicator, kMe.communicator);
    CHECK_EQ(message.from, 0);
    CHECK_EQ(message.to, 1);
    return message;
  }
  void welcome() {
    ControlMessage message;
    message.kind = ControlKind::kWelcome;
    message.descriptors.emplace_back(::dup(bell.page_fd()));
    message.descriptors.emplace_back(::dup(bell.event_fd()));
    peer.send(std::move(message));
  }
};

TEST(a_ring_waits_for_the_connection_and_its_sender_for_the_welcome) {
  PeerLinkFixture fixture;
  fixture.link.say_hello(/*is_unix=*/true);
  fixture.link.open_ring(2);
  fixture.connect();
  const ControlMessage hello = fixture.next();
  CHECK(hello.kind == ControlKind::kHello);
  CHECK_EQ(hello.descriptors.size(), 2U);
  const ControlMessage ring = fixture.next();
  CHECK(ring.kind == ControlKind::kRing);
  CHECK_EQ(ring.number, 2U);
  CHECK_EQ(ring.descriptors.size(), 1U);
  CHECK(fixture.link.on_event() == PeerLink::State::kOpen);
  CHECK(fixture.sink->heard.empty());
  fixture.welcome();
  CHECK(fixture.link.on_event() == PeerLink::State::kOpen);
  CHECK_EQ(fixture.sink->heard.size(), 1U);
  CHECK_EQ(fixture.sink->heard[0], "sender 1 2");
  fixture.link.open_ring(3);
  CHECK_EQ(fixture.sink->heard.size(), 2U);
}

TEST(a_leave_counts_the_rings_and_ends_the_link) {
  PeerLinkFixture fixture;
  fixture.link.say_hello(/*is_unix=*/true);
  fixture.link.open_ring(0);
  fixture.link.open_ring(1);
  fixture.link.send_leave("it is done");
  fixture.connect();
  CHECK(fixture.link.on_event() == PeerLink::State::kEnded);
  for (int i = 0; i < 3; ++i) fixture.next();
  const ControlMessage leave = fixture.next();
  CHECK(leave.kind == ControlKind::kLeave);
  CHECK_EQ(leave.number, 2U);
  CHECK_EQ(leave.failure.message, "it is done");
}

TEST(a_second_welcome_is_a_violation) {
  PeerLinkFixture fixture;
  fixture.connect();
  fixture.welcome();
  fixture.welcome();
  CHECK_THROWS(fixture.link.on_event(), PeerLostError, "a welcome answers no hello");
}

TEST(many_messages_are_read_in_turns) {
  PeerLinkFixture fixture;
  fixture.connect();
  for (int i = 0; i < 100; ++i) {
    ControlMessage message;
    message.kind = ControlKind::kFail;
    fixture.peer.send(std::move(message));
  }
  CHECK(fixture.link.on_event() == PeerLink::State::kMore);
  CHECK(fixture.sink->heard.size() < 100);
  while (fixture.link.on_event() == PeerLink::State::kMore) fixture.peer.flush();
  fixture.peer.flush();
  while (!fixture.peer.all_sent() || fixture.sink->heard.size() < 100) {
    fixture.link.on_event();
    fixture.peer.flush();
  }
  CHECK_EQ(fixture.sink->heard.size(), 100U);
}

TEST(descriptors_that_cannot_be_taken_are_a_shortage_of_this_process) {
  PeerLinkFixture fixture;
  fixture.connect();
  fixture.welcome();
  {
    const test::NoDescriptors none;
    CHECK_THROWS(fixture.link.on_event(), OutOfResourcesError, "cannot take the descriptors");
  }
  Failure failure;
  failure.message = "rank 0 ran out of file descriptors";
  fixture.link.send_failure(failure);
  CHECK(fixture.next().kind == ControlKind::kFail);
}

TEST(what_the_peer_said_before_its_end_still_counts) {
  PeerLinkFixture fixture;
  fixture.connect();
  ControlMessage leave;
  leave.kind = ControlKind::kLeave;
  fixture.peer.send(std::move(leave));
  fixture.peer = Link();
  CHECK(fixture.link.on_event() == PeerLink::State::kEnded);
  CHECK_EQ(fixture.sink->heard.size(), 1U);
  CHECK_EQ(fixture.sink->heard[0], "left 1 ");
}

}  // namespace
}  // namespace fastgpu
