#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "control/pending_connections.h"
#include "control_parts.h"
#include "shortages.h"

namespace fastgpu {
namespace {

using test::is_closed;
using test::is_refused;

constexpr MemberKey kKnown{.communicator = 5, .rank = 0};
constexpr MemberKey kExpected{.communicator = 6, .rank = 0};
constexpr MemberKey kUnknown{.communicator = 7, .rank = 0};

ControlMessage first_of(ControlKind kind, const MemberKey& to, int from = 1) {
  ControlMessage message;
  message.kind = kind;
  message.communicator = to.communicator;
  message.generation = to.generation;
  message.from = from;
  message.to = to.rank;
  return message;
}

struct PendingFixture {
  explicit PendingFixture(const PendingConnections::Limits& limits = {})
      : pending(loop,
                {.state_of =
                     [this](const MemberKey& key) {
                       return states.contains(key) ? states.at(key) : Registry::State::kUnknown;
                     },
                 .taken =
                     [this](Link link, ControlMessage first) {
                       taken.emplace_back(std::move(link), std::move(first));
                     },
                 .run_out = [this](const Failure& why) { shortages.push_back(why); }},
                limits) {}

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
  void attach(const MemberKey& key) {
    states[key] = Registry::State::kAttached;
    pending.resume(key);
  }

  EventLoop loop;
  std::map<MemberKey, Registry::State> states = {{kKnown, Registry::State::kAttached},
                                                 {kExpected, Registry::State::kExpected}};
  std::vector<std::pair<Link, ControlMessage>> taken;
  std::vector<Failure> shortages;
  PendingConnections pending;
};

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

TEST(a_hello_is_taken_before_any_group_exists) {
  PendingFixture fixture;
  fixture.states.clear();
  Link hello = fixture.connect();
  hello.send(first_of(ControlKind::kHello, {}));
  fixture.run();
  CHECK_EQ(fixture.taken.size(), 1U);
}

TEST(a_parked_stream_is_taken_once_its_communicator_exists) {
  PendingFixture fixture;
  Link link = fixture.connect(SOCK_STREAM);
  link.send(first_of(ControlKind::kStream, kExpected));
  link.send(first_of(ControlKind::kLeave, kExpected));  // not read before
  fixture.run();
  fixture.pending.resume(kKnown);
  CHECK(fixture.taken.empty());
  CHECK_EQ(fixture.pending.size(), 1U);
  fixture.attach(kExpected);
  CHECK_EQ(fixture.taken.size(), 1U);
  CHECK(fixture.taken[0].second.kind == ControlKind::kStream);
  ControlMessage next;
  CHECK(fixture.taken[0].first.receive(next) == Received::kMessage);
  CHECK(next.kind == ControlKind::kLeave);
}

TEST(a_parked_stream_is_closed_when_its_communicator_is_no_longer_expected) {
  PendingFixture fixture;
  Link link = fixture.connect(SOCK_STREAM);
  link.send(first_of(ControlKind::kStream, kExpected));
  fixture.run();
  fixture.states.erase(kExpected);
  fixture.pending.resume(kExpected);
  CHECK(is_closed(link));
  CHECK(fixture.taken.empty());
}

TEST(a_stream_of_a_group_that_is_not_here_is_closed) {
  MemberKey stale = kKnown;
  stale.generation = 1;
  for (const MemberKey& key : {kUnknown, stale, MemberKey{kKnown.communicator, 1}}) {
    PendingFixture fixture;
    Link link = fixture.connect(SOCK_STREAM);
    link.send(first_of(ControlKind::kStream, key));
    fixture.run();
    CHECK(is_closed(link));
    CHECK(fixture.taken.empty());
  }
}

TEST(a_parked_stream_stays_when_its_peer_ends) {
  PendingFixture fixture;
  {
    Link link = fixture.connect(SOCK_STREAM);
    link.send(first_of(ControlKind::kStream, kExpected));
  }
  fixture.run();
  fixture.attach(kExpected);
  CHECK_EQ(fixture.taken.size(), 1U);
}

TEST(parked_streams_are_taken_in_the_order_of_their_arrival) {
  PendingFixture fixture;
  std::vector<Link> links;
  for (int from = 1; from < 10; ++from) {
    links.push_back(fixture.connect(SOCK_STREAM));
    links.back().send(first_of(ControlKind::kStream, kExpected, from));
  }
  fixture.run();
  fixture.attach(kExpected);
  CHECK_EQ(fixture.taken.size(), 9U);
  for (int from = 1; from < 10; ++from) {
    CHECK_EQ(fixture.taken[static_cast<std::size_t>(from - 1)].second.from, from);
  }
}

TEST(the_oldest_makes_room_for_the_newest) {
  PendingFixture fixture({.connections = 2});
  std::vector<Link> links;
  for (int i = 0; i < 4; ++i) links.push_back(fixture.connect());
  CHECK_EQ(fixture.pending.size(), 2U);
  for (const std::size_t dropped : {0, 1}) CHECK(is_refused(links[dropped], "connections wait"));
  links[3].send(first_of(ControlKind::kHello, kKnown));
  fixture.run();
  CHECK_EQ(fixture.taken.size(), 1U);
}

TEST(a_shortage_spares_connections_that_are_new_or_wait_for_their_group) {
  const Failure why = make_failure(ErrorKind::kOutOfResources, "ran out of memory");
  PendingFixture patient;
  Link fresh = patient.connect();
  CHECK(!patient.pending.drop_silent(why));
  PendingFixture fixture({.spared = 0});
  Link parked = fixture.connect(SOCK_STREAM);
  parked.send(first_of(ControlKind::kStream, kExpected));
  fixture.run();
  CHECK(!fixture.pending.drop_silent(why));
  Link silent = fixture.connect();
  CHECK(fixture.pending.drop_silent(why));
  CHECK(is_refused(silent, "ran out of memory"));
  CHECK_EQ(fixture.pending.size(), 1U);
}

// Peers that wait for their group have said so; a stranger of the same host may say nothing.
TEST(a_silent_connection_makes_room_before_one_that_waits_for_its_group) {
  PendingFixture fixture({.connections = 2});
  Link waiting = fixture.connect(SOCK_STREAM);
  waiting.send(first_of(ControlKind::kStream, kExpected));
  fixture.run();
  Link silent = fixture.connect();
  Link newest = fixture.connect();
  CHECK(is_refused(silent, "connections wait"));
  fixture.attach(kExpected);
  CHECK_EQ(fixture.taken.size(), 1U);
}

// A host with many connections displaces its own, not those of other hosts.
TEST(a_source_with_many_connections_displaces_its_own) {
  PendingFixture fixture({.connections = 3});
  uint16_t port = 0;
  const UniqueFd listener = listen_tcp("127.0.0.1", {}, &port);
  UniqueFd other = dial_tcp({"127.0.0.1", port});
  UniqueFd accepted;
  while (!accepted) accepted = accept_connection(listener.get());
  fixture.pending.add(Link(make_tcp_stream(std::move(accepted))));
  std::vector<Link> links;
  for (int i = 0; i < 10; ++i) links.push_back(fixture.connect());
  CHECK_EQ(fixture.pending.size(), 3U);
  Link remote(make_tcp_stream(std::move(other)));
  CHECK(!is_closed(remote));
  CHECK(is_refused(links[7], "connections wait, 2 of them from process"));
}

TEST(the_limit_grows_with_the_world) {
  PendingFixture fixture({.connections = 2});
  fixture.pending.expect(4);
  std::vector<Link> links;
  for (int i = 0; i < 9; ++i) links.push_back(fixture.connect());
  CHECK_EQ(fixture.pending.size(), 8U);
  fixture.pending.expect(std::size_t{1} << 40);
  rlimit files{};
  CHECK_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  CHECK(fixture.pending.limit() <= std::max<std::size_t>(files.rlim_cur / 2, 8));
}

TEST(a_connection_that_is_silent_too_long_is_closed) {
  PendingFixture fixture({.silent = 0});
  Link silent = fixture.connect();
  Link parked = fixture.connect(SOCK_STREAM);
  parked.send(first_of(ControlKind::kStream, kExpected));
  const TimeNs limit = now_ns() + 20 * kSecond;
  while (fixture.pending.size() > 1 && now_ns() < limit) fixture.loop.run_once(limit);
  CHECK(is_refused(silent, "sent nothing for 0 s"));
  CHECK(!is_closed(parked));
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

TEST(a_connection_that_cannot_be_served_for_want_of_descriptors_is_refused) {
  PendingFixture fixture;
  Link hello = fixture.connect();
  ControlMessage first = first_of(ControlKind::kHello, kKnown);
  first.descriptors.emplace_back(::dup(hello.fd()));
  hello.send(std::move(first));
  Link probe = fixture.connect();
  for (const bool probes : {false, true}) {  // one after the other: a closed connection makes room
    if (probes) probe.send(first_of(ControlKind::kProbe, {}));
    const test::NoDescriptors none;
    fixture.run();
  }
  for (Link* link : {&hello, &probe}) CHECK(is_refused(*link, "ran out of file descriptors"));
  CHECK_EQ(fixture.shortages.size(), 1U);  // a probe concerns no group yet
  CHECK_EQ(fixture.pending.size(), 0U);
}

}  // namespace
}  // namespace fastgpu
