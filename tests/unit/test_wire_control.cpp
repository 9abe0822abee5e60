// Control messages, byte by byte, as docs/wire.md says. Writers must produce exactly these bytes,
// and readers accept them.
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "control/link.h"
#include "unit/wire_bytes.h"

namespace fastgpu::test {
namespace {

using Bytes = std::vector<std::byte>;

std::pair<UniqueFd, UniqueFd> socket_pair(int type) {
  std::array<int, 2> both{};
  CHECK_EQ(::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()), 0);
  return {UniqueFd(both[0]), UniqueFd(both[1])};
}

Bytes read_all(const UniqueFd& socket) {
  Bytes bytes(8192);
  const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
  bytes.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return bytes;
}

ControlMessage failure_message() {
  ControlMessage message;
  message.kind = ControlKind::kFail;
  message.communicator = 0x0807060504030201;
  message.generation = 0x14131211;
  message.from = 3;
  message.to = 0x0201;
  message.number = 0x04030201;
  message.failure.kind = ErrorKind::kMismatch;
  message.failure.peer = 5;
  message.failure.sequence = 0x0102030405060708;
  message.failure.op = "all_reduce";
  message.failure.message = "why";
  return message;
}

Bytes failure_bytes() {
  return WireBytes()
      .text("FGG4")
      .u8(7)
      .u8(3)
      .u16(10)
      .u64(0x0807060504030201)
      .u32(3)
      .u32(0x0201)
      .u32(0x04030201)
      .u32(5)
      .u64(0x0102030405060708)
      .u32(3)
      .u32(0x14131211)
      .text("all_reducewhy")
      .bytes();
}

Link link_over(UniqueFd socket, bool is_unix) {
  return is_unix ? Link(std::move(socket)) : Link(make_tcp_stream(std::move(socket)));
}

TEST(a_control_message_is_one_packet_over_unix) {
  auto [mine, raw] = socket_pair(SOCK_SEQPACKET);
  Link link = link_over(std::move(mine), /*is_unix=*/true);
  link.send(failure_message());
  CHECK_EQ(hex(read_all(raw)), hex(failure_bytes()));
}

TEST(a_control_message_follows_its_length_over_tcp) {
  auto [mine, raw] = socket_pair(SOCK_STREAM);
  Link link = link_over(std::move(mine), /*is_unix=*/false);
  link.send(failure_message());
  CHECK_EQ(hex(read_all(raw)), hex(WireBytes().u32(61).append(failure_bytes())));
}

TEST(a_control_message_is_read_from_the_same_bytes) {
  for (const bool is_unix : {true, false}) {
    auto [mine, raw] = socket_pair(is_unix ? SOCK_SEQPACKET : SOCK_STREAM);
    Link link = link_over(std::move(mine), is_unix);
    const Bytes bytes =
        is_unix ? failure_bytes() : WireBytes().u32(61).append(failure_bytes()).bytes();
    CHECK_EQ(::send(raw.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    ControlMessage message;
    CHECK(link.receive(message) == Received::kMessage);
    const ControlMessage expected = failure_message();
    CHECK_EQ(message.kind, expected.kind);
    CHECK_EQ(message.communicator, expected.communicator);
    CHECK_EQ(message.generation, expected.generation);
    CHECK_EQ(message.from, expected.from);
    CHECK_EQ(message.to, expected.to);
    CHECK_EQ(message.number, expected.number);
    CHECK_EQ(message.failure.kind, expected.failure.kind);
    CHECK_EQ(message.failure.peer, expected.failure.peer);
    CHECK_EQ(message.failure.sequence, expected.failure.sequence);
    CHECK_EQ(message.failure.op, expected.failure.op);
    CHECK_EQ(message.failure.message, expected.failure.message);
    CHECK(link.receive(message) == Received::kNothing);
  }
}

TEST(the_numbers_in_a_control_message_are_fixed) {
  const std::array kinds = {ControlKind::kHello,         ControlKind::kWelcome,
                            ControlKind::kRing,          ControlKind::kStream,
                            ControlKind::kSegment,       ControlKind::kLeave,
                            ControlKind::kFail,          ControlKind::kProbe,
                            ControlKind::kDeviceSegment, ControlKind::kDeviceSegmentMapped};
  for (std::size_t i = 0; i < kinds.size(); ++i)
    CHECK_EQ(static_cast<std::size_t>(kinds[i]), i + 1);
  const std::array errors = {ErrorKind::kInvalidArgument, ErrorKind::kPeerLost,
                             ErrorKind::kTimeout,         ErrorKind::kMismatch,
                             ErrorKind::kAborted,         ErrorKind::kAuthentication,
                             ErrorKind::kRendezvous,      ErrorKind::kOutOfResources};
  for (std::size_t i = 0; i < errors.size(); ++i) CHECK_EQ(static_cast<std::size_t>(errors[i]), i);
}

TEST(long_texts_are_cut_to_what_a_control_message_holds) {
  auto [mine, raw] = socket_pair(SOCK_SEQPACKET);
  Link link = link_over(std::move(mine), /*is_unix=*/true);
  ControlMessage message = failure_message();
  message.failure.op = std::string(100, 'o');
  message.failure.message = std::string(5000, 'm');
  link.send(std::move(message));
  CHECK_EQ(read_all(raw).size(), 48U + 64U + 1500U);
}

}  // namespace
}  // namespace fastgpu::test
