// The channels that the broker makes, and streams that become channels.
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "control/channel_broker.h"
#include "control/stream_opener.h"
#include "control_parts.h"

namespace fastgpu {
namespace {

constexpr MemberKey kMe{.communicator = 3, .rank = 0};
constexpr PairKey kPair{.member = kMe, .peer = 1};

struct BrokerFixture {
  Poller poller;
  SymmetricHeap heap;
  ChannelBroker broker{poller, heap};
  ChannelBroker::RingPeer peer{.pair = kPair,
                               .process = ::getpid(),
                               .doorbell = std::make_shared<Doorbell>(Doorbell::create()),
                               .segments = std::make_shared<PeerSegments>()};
};

void check_passes_a_frame(SendChannel& sender, RecvChannel& receiver) {
  const std::array<char, 6> sent = {'f', 'r', 'a', 'm', 'e', '1'};
  std::array<char, 6> received{};
  Outgoing frame{.header = {.size_bytes = sent.size()},
                 .payload = reinterpret_cast<const std::byte*>(sent.data())};
  Incoming incoming{.target = reinterpret_cast<std::byte*>(received.data()),
                    .size_bytes = received.size()};
  const TimeNs limit = now_ns() + 20 * kSecond;
  while (!incoming.done && now_ns() < limit) {
    FrameHeader header;
    if (!frame.done) sender.try_send(frame);
    if (receiver.peek(header) == Io::kMoved) receiver.try_recv(incoming);
  }
  CHECK(received == sent);
}

TEST(a_ring_has_a_sender_and_a_receiver) {
  BrokerFixture fixture;
  const UniqueFd ring = create_shm_ring({});
  const auto sender =
      fixture.broker.ring_sender(fixture.peer, 0, UniqueFd(::dup(ring.get())), [](uint32_t) {});
  const auto receiver = fixture.broker.ring_receiver(fixture.peer, 1, UniqueFd(::dup(ring.get())));
  check_passes_a_frame(*sender, *receiver);
}

TEST(an_end_is_shared_by_a_lane_of_one_process) {
  BrokerFixture fixture;
  const auto end = fixture.broker.end_of(fixture.peer, 2);
  CHECK(fixture.broker.end_of(fixture.peer, 2) == end);
  CHECK(fixture.broker.end_of(fixture.peer, 3) != end);
  ChannelBroker::RingPeer other = fixture.peer;
  other.process = 1;
  CHECK(fixture.broker.end_of(other, 2) != end);
  other = fixture.peer;
  other.pair.peer = 2;
  CHECK(fixture.broker.end_of(other, 2) != end);
  fixture.broker.forget(kMe);
  CHECK(fixture.broker.end_of(fixture.peer, 2) != end);
}

TEST(the_passed_doorbell_wakes_the_engine) {
  BrokerFixture fixture;
  std::vector<UniqueFd> passed = fixture.broker.own_doorbell();
  CHECK_EQ(passed.size(), 2U);
  Doorbell bell = Doorbell::attach(std::move(passed[0]), std::move(passed[1]));
  fixture.poller.prepare_sleep();
  bell.ring();
  fixture.poller.sleep(kNever);
}

// A listener stands for the peer.
struct StreamFixture : BrokerFixture {
  EventLoop loop;
  Registry registry;
  Dialler dialler{loop};
  StreamOpener opener{loop, dialler, registry, broker};
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

TEST(both_ends_of_a_stream_are_channels) {
  StreamFixture fixture;
  UniqueFd dialled = dial_tcp({"127.0.0.1", fixture.port});
  UniqueFd accepted = fixture.accept();
  const auto sender = fixture.broker.stream_sender(make_tcp_stream(std::move(dialled)));
  const auto receiver = fixture.broker.stream_receiver(make_tcp_stream(std::move(accepted)));
  check_passes_a_frame(*sender, *receiver);
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
