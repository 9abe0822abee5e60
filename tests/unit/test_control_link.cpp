#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "control/link.h"
#include "scrambled_stream.h"

namespace fastgpu {
namespace {

std::array<UniqueFd, 2> socket_pair(int type) {
  std::array<int, 2> both{};
  CHECK_EQ(::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()), 0);
  return {UniqueFd(both[0]), UniqueFd(both[1])};
}

struct LinkEnds {
  Link left;
  Link right;
};

LinkEnds unix_ends() {
  auto sockets = socket_pair(SOCK_SEQPACKET);
  return {Link(std::move(sockets[0])), Link(std::move(sockets[1]))};
}

LinkEnds stream_ends() {
  auto sockets = socket_pair(SOCK_STREAM);
  return {Link(make_tcp_stream(std::move(sockets[0]))),
          Link(make_tcp_stream(std::move(sockets[1])))};
}

LinkEnds scrambled_ends() {
  const auto scrambled = [](UniqueFd socket) {
    return std::make_unique<test::ScrambledStream>(make_tcp_stream(std::move(socket)));
  };
  auto sockets = socket_pair(SOCK_STREAM);
  return {Link(scrambled(std::move(sockets[0]))), Link(scrambled(std::move(sockets[1])))};
}

ControlMessage numbered(uint32_t number) {
  ControlMessage message;
  message.kind = ControlKind::kFail;
  message.number = number;
  message.failure.message = std::string(kMaxTextBytes, 't');
  return message;
}

void check_next(Link& link, uint32_t number) {
  ControlMessage message;
  CHECK(link.receive(message) == Received::kMessage);
  CHECK_EQ(message.number, number);
}

TEST(messages_arrive_in_order_also_when_they_had_to_wait) {
  for (const auto make : {unix_ends, stream_ends, scrambled_ends}) {
    LinkEnds ends = make();
    uint32_t sent = 0;
    while (ends.left.all_sent()) ends.left.send(numbered(sent++));
    for (int more = 0; more < 10; ++more) ends.left.send(numbered(sent++));
    for (uint32_t number = 0; number < sent; ++number) {
      ends.left.flush();
      check_next(ends.right, number);
    }
    CHECK(ends.left.all_sent());
    ControlMessage message;
    CHECK(ends.right.receive(message) == Received::kNothing);
  }
}

TEST(descriptors_go_along_over_a_unix_socket) {
  LinkEnds ends = unix_ends();
  ControlMessage message = numbered(3);
  message.descriptors.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  ends.left.send(std::move(message));
  ControlMessage received;
  CHECK(ends.right.receive(received) == Received::kMessage);
  CHECK_EQ(received.descriptors.size(), 1U);
  CHECK_EQ(ends.left.peer_process(), ::getpid());
  CHECK_EQ(stream_ends().left.peer_process(), 0);
}

// After kStream the stream belongs to a channel, so not a byte more may have been read.
TEST(nothing_behind_a_message_is_read) {
  LinkEnds ends = scrambled_ends();
  ends.left.send(numbered(4));
  const std::unique_ptr<Stream> from = ends.left.release_stream();
  std::string frame = "the first frame";
  std::size_t size = 0;
  std::array<iovec, 1> part = {iovec{.iov_base = frame.data(), .iov_len = frame.size()}};
  CHECK(from->write(part, &size) == Io::kMoved);
  check_next(ends.right, 4);
  const std::unique_ptr<Stream> to = ends.right.release_stream();
  std::string received(100, ' ');
  part = {iovec{.iov_base = received.data(), .iov_len = received.size()}};
  CHECK(to->read(part, &size) == Io::kMoved);
  CHECK_EQ(received.substr(0, size), frame);
}

TEST(a_message_may_arrive_byte_by_byte) {
  auto sockets = socket_pair(SOCK_STREAM);
  Link link(make_tcp_stream(std::move(sockets[1])));
  const std::vector<std::byte> bytes = encode(numbered(5));
  const auto length = static_cast<uint32_t>(bytes.size());
  std::vector<std::byte> wire(sizeof(length));
  std::memcpy(wire.data(), &length, sizeof(length));
  wire.insert(wire.end(), bytes.begin(), bytes.end());
  ControlMessage message;
  for (const std::byte& byte : wire) {
    CHECK(link.receive(message) == Received::kNothing);
    CHECK_EQ(::send(sockets[0].get(), &byte, 1, 0), 1);
  }
  check_next(link, 5);
}

TEST(a_length_beyond_the_limit_is_refused_at_once) {
  for (const uint32_t length : {uint32_t{kMaxControlBytes} + 1, uint32_t{0xffffffff}}) {
    auto sockets = socket_pair(SOCK_STREAM);
    Link link(make_tcp_stream(std::move(sockets[1])));
    CHECK_EQ(::send(sockets[0].get(), &length, sizeof(length), 0), 4);
    ControlMessage message;
    CHECK_THROWS(link.receive(message), PeerLostError,
                 "a message of " + std::to_string(length) + " bytes; the limit is 2048");
  }
}

TEST(a_message_of_no_bytes_is_refused) {
  auto sockets = socket_pair(SOCK_STREAM);
  Link link(make_tcp_stream(std::move(sockets[1])));
  const uint32_t length = 0;
  CHECK_EQ(::send(sockets[0].get(), &length, sizeof(length), 0), 4);
  ControlMessage message;
  CHECK_THROWS(link.receive(message), PeerLostError, "not a control message");
}

TEST(what_a_closed_peer_sent_is_read_first) {
  for (const auto make : {unix_ends, stream_ends}) {
    LinkEnds ends = make();
    ends.left.send(numbered(6));
    ends.left = Link();
    check_next(ends.right, 6);
    ControlMessage message;
    CHECK(ends.right.receive(message) == Received::kClosed);
    CHECK_THROWS(ends.right.send(numbered(7)), PeerLostError, "");
  }
}

}  // namespace
}  // namespace fastgpu
