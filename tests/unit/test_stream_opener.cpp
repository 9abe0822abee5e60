// Streams that become channels.
#include <poll.h>

#include <memory>
#include <vector>

#include "check.h"
#include "control/stream_opener.h"
#include "control_parts.h"

namespace fastgpu {
namespace {

constexpr MemberKey kMe{.communicator = 3, .rank = 0};
constexpr PairKey kPair{.member = kMe, .peer = 1};

// A listener stands for the peer.
struct StreamFixture {
  Poller poller;
  EventLoop loop;
  Registry registry{loop, 20 * kSecond};
  Dialler dialler{loop};
  StreamOpener opener{loop, dialler, registry, poller};
  std::shared_ptr<test::NotingSink> sink = std::make_shared<test::NotingSink>();
  uint16_t port = 0;
  UniqueFd listener = listen_tcp("127.0.0.1", {}, &port);

  StreamFixture() {
    PeerAddress address;
    address.endpoints = {{"127.0.0.1", port}};
    registry.attach(kMe, sink, {PeerAddress{}, address});
  }
  void run_until_heard() {
    const TimeNs limit = now_ns() + 20 * kSecond;
    while (sink->heard.empty() && now_ns() < limit) loop.run_once(limit);
    CHECK_EQ(sink->heard.size(), 1U);
  }
  UniqueFd accept() const {
    pollfd waiting{.fd = listener.get(), .events = POLLIN, .revents = 0};
    CHECK_EQ(::poll(&waiting, 1, 20'000), 1);
    return accept_connection(listener.get());
  }
};

TEST(a_stream_names_its_lane_and_becomes_a_channel) {
  StreamFixture fixture;
  fixture.opener.open(kPair, 4);
  fixture.run_until_heard();
  CHECK_EQ(fixture.sink->heard[0], "sender 1 4");
  CHECK_EQ(fixture.registry.opened(kPair), 1U);
  Link link(make_tcp_stream(fixture.accept()));
  ControlMessage first;
  while (link.receive(first) == Received::kNothing) {
  }
  CHECK(first.kind == ControlKind::kStream);
  CHECK_EQ(first.communicator, kMe.communicator);
  CHECK_EQ(first.from, 0);
  CHECK_EQ(first.to, 1);
  CHECK_EQ(first.number, 4U);
}

TEST(a_stream_of_a_detached_communicator_is_not_announced) {
  StreamFixture fixture;
  fixture.opener.open(kPair, 4);
  fixture.registry.detach(kMe);
  Link link(make_tcp_stream(fixture.accept()));
  ControlMessage first;
  const TimeNs limit = now_ns() + 20 * kSecond;
  Received received = Received::kNothing;
  while (received == Received::kNothing && now_ns() < limit) {
    fixture.loop.run_once(now_ns());
    received = link.receive(first);
  }
  CHECK(received == Received::kClosed);
  CHECK(fixture.sink->heard.empty());
}

TEST(a_stream_that_cannot_be_opened_loses_the_peer) {
  StreamFixture fixture;
  fixture.listener.reset();
  fixture.opener.open(kPair, 4);
  fixture.run_until_heard();
  CHECK(fixture.sink->heard[0].starts_with("lost 1 it cannot be reached"));
  CHECK_EQ(fixture.registry.opened(kPair), 0U);
}

}  // namespace
}  // namespace fastgpu
