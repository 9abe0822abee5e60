#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "control/listener.h"
#include "control/pending_connections.h"
#include "control/probe.h"

namespace fastgpu {
namespace {

constexpr MemberKey kKnown{.communicator = 5, .rank = 0};
constexpr MemberKey kUnknown{.communicator = 6, .rank = 0};

ControlMessage first_of(ControlKind kind, const MemberKey& to, int from = 1) {
  ControlMessage message;
  message.kind = kind;
  message.communicator = to.communicator;
  message.from = from;
  message.to = to.rank;
  return message;
}

struct PendingFixture {
  explicit PendingFixture(std::size_t limit = 100)
      : pending(
            loop, [this](const MemberKey& key) { return known.contains(key); },
            [this](Link link, ControlMessage first) {
              taken.emplace_back(std::move(link), std::move(first));
            },
            limit) {}

  // A new connection; returns the peer's end.
  Link connect(int type = SOCK_SEQPACKET) {
    std::array<int, 2> both{};
    CHECK_EQ(::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()), 0);
    if (type == SOCK_SEQPACKET) {
      pending.add(Link(UniqueFd(both[0])));
      return Link(UniqueFd(both[1]));
    }
    pending.add(Link(make_tcp_stream(UniqueFd(both[0]))));
    return Link(make_tcp_stream(UniqueFd(both[1])));
  }
  void run() { loop.run_once(now_ns()); }

  EventLoop loop;
  std::set<MemberKey> known = {kKnown};
  std::vector<std::pair<Link, ControlMessage>> taken;
  PendingConnections pending;
};

bool is_closed(Link& link) {
  ControlMessage message;
  return link.receive(message) == Received::kClosed;
}

TEST(a_hello_and_a_stream_reach_their_communicator) {
  PendingFixture fixture;
  Link hello = fixture.connect();
  Link stream = fixture.connect(SOCK_STREAM);
  CHECK_EQ(fixture.pending.size(), 2U);
  hello.send(first_of(ControlKind::kHello, kKnown));
  stream.send(first_of(ControlKind::kStream, kKnown, 2));
  fixture.run();
  CHECK_EQ(fixture.taken.size(), 2U);
  CHECK_EQ(fixture.taken[0].second.from + fixture.taken[1].second.from, 3);
  CHECK_EQ(fixture.pending.size(), 0U);
}

TEST(a_parked_connection_is_taken_once_its_communicator_exists) {
  PendingFixture fixture;
  Link link = fixture.connect();
  link.send(first_of(ControlKind::kHello, kUnknown));
  link.send(first_of(ControlKind::kLeave, kUnknown));  // not read before
  fixture.run();
  CHECK(fixture.taken.empty());
  fixture.pending.resume(kKnown);
  CHECK(fixture.taken.empty());
  CHECK_EQ(fixture.pending.size(), 1U);
  fixture.pending.resume(kUnknown);
  CHECK_EQ(fixture.taken.size(), 1U);
  CHECK(fixture.taken[0].second.kind == ControlKind::kHello);
  ControlMessage next;
  CHECK(fixture.taken[0].first.receive(next) == Received::kMessage);
  CHECK(next.kind == ControlKind::kLeave);
}

TEST(a_parked_connection_stays_when_its_peer_ends) {
  PendingFixture fixture;
  {
    Link link = fixture.connect();
    link.send(first_of(ControlKind::kHello, kUnknown));
  }
  fixture.run();
  fixture.pending.resume(kUnknown);
  CHECK_EQ(fixture.taken.size(), 1U);
}

TEST(parked_connections_are_taken_in_the_order_of_their_arrival) {
  PendingFixture fixture;
  std::vector<Link> links;
  for (int from = 1; from < 10; ++from) {
    links.push_back(fixture.connect());
    links.back().send(first_of(ControlKind::kHello, kUnknown, from));
  }
  fixture.run();
  fixture.pending.resume(kUnknown);
  CHECK_EQ(fixture.taken.size(), 9U);
  for (int from = 1; from < 10; ++from) {
    CHECK_EQ(fixture.taken[static_cast<std::size_t>(from - 1)].second.from, from);
  }
}

TEST(the_oldest_makes_room_for_the_newest) {
  PendingFixture fixture(/*limit=*/2);
  std::vector<Link> links;
  for (int i = 0; i < 4; ++i) links.push_back(fixture.connect());
  CHECK_EQ(fixture.pending.size(), 2U);
  CHECK(is_closed(links[0]) && is_closed(links[1]));
  links[3].send(first_of(ControlKind::kHello, kKnown));
  fixture.run();
  CHECK_EQ(fixture.taken.size(), 1U);
  CHECK(fixture.pending.drop_oldest());
  CHECK(is_closed(links[2]));
  CHECK(!fixture.pending.drop_oldest());
}

TEST(a_wrong_first_message_closes_the_connection) {
  for (const ControlKind kind : {ControlKind::kWelcome, ControlKind::kRing, ControlKind::kSegment,
                                 ControlKind::kLeave, ControlKind::kFail, ControlKind::kStream}) {
    PendingFixture fixture;
    Link link = fixture.connect();
    link.send(first_of(kind, kKnown));
    fixture.run();
    CHECK(is_closed(link));
    CHECK(fixture.taken.empty());
  }
  PendingFixture fixture;
  Link link = fixture.connect(SOCK_STREAM);
  link.send(first_of(ControlKind::kProbe, {}));
  fixture.run();
  CHECK(is_closed(link));
}

TEST(bytes_that_are_no_message_close_the_connection) {
  PendingFixture fixture;
  Link link = fixture.connect();
  CHECK_EQ(::send(link.fd(), "GET / HTTP/1.1", 14, 0), 14);
  fixture.run();
  CHECK(is_closed(link));
  CHECK_EQ(fixture.pending.size(), 0U);
}

TEST(a_probe_is_answered_and_its_connection_closed) {
  PendingFixture fixture;
  Link link = fixture.connect();
  link.send(first_of(ControlKind::kProbe, {}));
  fixture.run();
  ControlMessage answer;
  CHECK(link.receive(answer) == Received::kMessage);
  CHECK(answer.kind == ControlKind::kProbe);
  CHECK_EQ(answer.descriptors.size(), 1U);
  CHECK(is_closed(link));
}

TEST(the_limit_fits_the_limit_of_open_files) {
  const std::size_t limit = PendingConnections::default_limit();
  CHECK(limit >= 1 && limit <= 4096);
}

// Accepts whatever waits, then returns.
struct Listening {
  EventLoop loop;
  std::vector<Link> accepted;
  Listener listener{loop, [this](Link link) { accepted.push_back(std::move(link)); },
                    [] { return false; }};

  void accept(std::size_t count) {
    const TimeNs limit = now_ns() + 20 * kSecond;
    while (accepted.size() < count && now_ns() < limit) loop.run_once(limit);
    CHECK_EQ(accepted.size(), count);
  }
};

TEST(both_sockets_are_accepted_from) {
  Listening listening;
  const UniqueFd local = dial_unix(listening.listener.unix_name());
  const UniqueFd remote = dial_tcp({"127.0.0.1", listening.listener.listen("127.0.0.1", {})});
  listening.accept(2);
  CHECK(listening.accepted[0].is_unix() != listening.accepted[1].is_unix());
}

TEST(more_connections_than_one_turn_takes_are_all_accepted) {
  Listening listening;
  std::vector<UniqueFd> dialled;
  for (int i = 0; i < 150; ++i) dialled.push_back(dial_unix(listening.listener.unix_name()));
  listening.accept(150);
}

TEST(the_port_stays_for_all_groups) {
  Listening listening;
  const uint16_t port = listening.listener.listen("127.0.0.1", {});
  CHECK_EQ(listening.listener.listen("127.0.0.1", {}), port);
  CHECK_EQ(listening.listener.listen("127.0.0.1", {port, port}), port);
  const uint16_t other = port == 1024 ? 1025 : static_cast<uint16_t>(port - 1);
  CHECK_THROWS(listening.listener.listen("127.0.0.1", {other, other}), RendezvousError,
               "listens on 127.0.0.1:" + std::to_string(port));
}

}  // namespace
}  // namespace fastgpu
