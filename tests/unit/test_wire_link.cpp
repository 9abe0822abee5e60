// How a control link opens and what it then carries, byte by byte, as docs/wire.md says.
#include <sys/socket.h>

#include <array>
#include <string>
#include <vector>

#include "check.h"
#include "control/peer_link.h"
#include "unit/wire_bytes.h"

namespace fastgpu::test {
namespace {

using Bytes = std::vector<std::byte>;

// The other end of the link, over TCP.
struct RawProcess {
  explicit RawProcess(UniqueFd end) : socket(std::move(end)) {}
  std::string read() const {
    Bytes bytes(4096);
    const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return hex(bytes);
  }
  void write(const WireControl& message) const {
    const Bytes bytes = message.stream();
    CHECK_EQ(::send(socket.get(), bytes.data(), bytes.size(), 0),
             static_cast<ssize_t>(bytes.size()));
  }
  UniqueFd socket;
};

struct WireLinkFixture {
  EventLoop loop;
  Poller poller;
  SymmetricHeap heap;
  Registry registry{loop, kSecond};
  PeerLink link{{"fastgpu-8-0", false}, "fastgpu-4711-0123456789abcdef", registry, poller, heap,
                [](uint32_t) {}};
  std::array<UniqueFd, 2> sockets = pair();

  static std::array<UniqueFd, 2> pair() {
    std::array<int, 2> both{};
    CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.data()), 0);
    return {UniqueFd(both[0]), UniqueFd(both[1])};
  }
};

// The hello is the example of docs/wire.md.
TEST(a_link_opens_with_a_hello_and_then_carries_the_messages_of_a_member) {
  WireLinkFixture fixture;
  const RawProcess peer(std::move(fixture.sockets[1]));
  fixture.link.set_dialling();
  fixture.link.send_leave({{.communicator = 5, .rank = 2, .generation = 9}, 7}, "it is done");
  fixture.link.connect(std::move(fixture.sockets[0]));
  CHECK_EQ(
      peer.read(),
      "4d 00 00 00 46 47 47 34 01 04 00 00 00 00 00 00 00 00 00 00 ff ff ff ff ff ff ff ff "
      "00 00 00 00 ff ff ff ff ff ff ff ff ff ff ff ff 1d 00 00 00 00 00 00 00 "
      "66 61 73 74 67 70 75 2d 34 37 31 31 2d 30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66");
  peer.write({.kind = kWelcomeKind, .text = "fastgpu-8-0"});
  CHECK(fixture.link.on_event() == PeerLink::Next::kWait);
  CHECK_EQ(peer.read(), hex(WireControl{.kind = kLeaveKind,
                                        .communicator = 5,
                                        .generation = 9,
                                        .from = 2,
                                        .to = 7,
                                        .text = "it is done"}
                                .stream()));
}

TEST(a_hello_is_answered_with_a_welcome) {
  WireLinkFixture fixture;
  const RawProcess peer(std::move(fixture.sockets[1]));
  peer.write({.kind = kHelloKind, .text = "fastgpu-8-0"});
  Link accepted(std::move(fixture.sockets[0]), /*is_unix=*/false);
  ControlMessage hello;
  CHECK(accepted.receive(hello) == Received::kMessage);
  CHECK(fixture.link.accept(std::move(accepted), std::move(hello)));
  CHECK_EQ(
      peer.read(),
      hex(WireControl{.kind = kWelcomeKind, .text = "fastgpu-4711-0123456789abcdef"}.stream()));
}

}  // namespace
}  // namespace fastgpu::test
