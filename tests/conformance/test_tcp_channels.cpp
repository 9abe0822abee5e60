#include <poll.h>
#include <sys/socket.h>

#include <fstream>
#include <optional>

#include "channel_suite.h"
#include "check.h"
#include "scrambled_stream.h"
#include "transport/socket/socket.h"
#include "transport/tcp/tcp.h"
#include "transport/wait/poller.h"

namespace fastgpu::test {
namespace {

// The size to which the kernel may let a buffer grow: the last of the three numbers in the file.
uint64_t largest_buffer_bytes(const char* limits) {
  std::ifstream file(limits);
  uint64_t smallest = 0;
  uint64_t usual = 0;
  uint64_t largest = 0;
  CHECK(static_cast<bool>(file >> smallest >> usual >> largest));
  return largest;
}

bool has_ipv6() {
  for (const InterfaceAddress& one : interface_addresses())
    if (one.address == "::1") return true;
  return false;
}

using MakeStream = std::unique_ptr<Stream> (*)(UniqueFd socket);

std::unique_ptr<Stream> make_scrambled_stream(UniqueFd socket) {
  return std::make_unique<ScrambledStream>(make_tcp_stream(std::move(socket)));
}

// `buffer_bytes` is the size of the kernel's buffer at each end; 0: the kernel chooses.
ChannelEnds connect(const char* address, int buffer_bytes, MakeStream make_stream) {
  uint16_t port = 0;
  const UniqueFd listener = listen_tcp(address, {}, &port);
  UniqueFd dialled = dial_tcp({address, port});
  for (const auto& [socket, events] :
       {std::pair(dialled.get(), POLLOUT), std::pair(listener.get(), POLLIN)}) {
    pollfd wanted{.fd = socket, .events = static_cast<short>(events), .revents = 0};
    CHECK_EQ(::poll(&wanted, 1, 10'000), 1);
  }
  CHECK_EQ(dial_result(dialled.get()), 0);
  UniqueFd accepted = accept_connection(listener.get());
  if (buffer_bytes != 0) {
    ::setsockopt(dialled.get(), SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(buffer_bytes));
    ::setsockopt(accepted.get(), SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof(buffer_bytes));
  }
  auto poller = std::make_shared<Poller>();
  return {poller, make_tcp_sender(make_stream(std::move(dialled)), *poller),
          make_tcp_receiver(make_stream(std::move(accepted)), *poller)};
}

ChannelParameter tcp_parameter(const char* name, const char* address, int buffer_bytes,
                               MakeStream make_stream = make_tcp_stream) {
  const uint64_t bound_bytes = buffer_bytes != 0
                                   ? 4 * static_cast<uint64_t>(buffer_bytes)  // Linux doubles
                                   : largest_buffer_bytes("/proc/sys/net/ipv4/tcp_wmem") +
                                         largest_buffer_bytes("/proc/sys/net/ipv4/tcp_rmem");
  return {.name = name,
          .make = [=] { return connect(address, buffer_bytes, make_stream); },
          .bound_bytes = bound_bytes + 50'000};
}

const ChannelSuite kTcp(tcp_parameter("tcp", "127.0.0.1", 0));
const std::optional<ChannelSuite> kTcpV6 =
    has_ipv6() ? std::optional(ChannelSuite(tcp_parameter("tcp_v6", "::1", 0))) : std::nullopt;
const ChannelSuite kTcpScrambled(tcp_parameter("tcp_scrambled", "127.0.0.1", 0,
                                               make_scrambled_stream));
const ChannelSuite kTcpNarrow(tcp_parameter("tcp_narrow", "127.0.0.1", 128 << 10));

}  // namespace
}  // namespace fastgpu::test
