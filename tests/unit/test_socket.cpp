#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <thread>

#include "base/error.h"
#include "check.h"
#include "patience.h"
#include "transport/socket/socket.h"

namespace fastgpu {
namespace {

bool has_address(const std::string& address) {
  const std::vector<InterfaceAddress> all = interface_addresses();
  return std::any_of(all.begin(), all.end(),
                     [&](const InterfaceAddress& one) { return one.address == address; });
}

// Dials `address`, accepts, and sends a byte there and one back.
void check_connects(const std::string& address) {
  uint16_t port = 0;
  const UniqueFd listener = listen_tcp(address, {}, &port);
  CHECK(port != 0);
  CHECK(!accept_connection(listener.get()));
  const UniqueFd dialled = dial_tcp({address, port});
  CHECK(test::is_ready(dialled.get(), POLLOUT));
  CHECK_EQ(dial_result(dialled.get()), 0);
  CHECK(test::is_ready(listener.get(), POLLIN));
  const UniqueFd accepted = accept_connection(listener.get());
  CHECK(static_cast<bool>(accepted));
  for (const auto& [from, to] :
       {std::pair(dialled.get(), accepted.get()), std::pair(accepted.get(), dialled.get())}) {
    char byte = 'x';
    CHECK_EQ(::send(from, &byte, 1, MSG_NOSIGNAL), 1);
    byte = 0;
    CHECK(test::is_ready(to, POLLIN));
    CHECK_EQ(::recv(to, &byte, 1, 0), 1);
    CHECK_EQ(byte, 'x');
    CHECK((::fcntl(from, F_GETFL) & O_NONBLOCK) != 0);
    CHECK((::fcntl(from, F_GETFD) & FD_CLOEXEC) != 0);
  }
}

TEST(ipv4_connects_to_its_listener) { check_connects("127.0.0.1"); }

TEST(ipv6_connects_to_its_listener) {
  if (has_address("::1")) {
    check_connects("::1");
  } else {  // this machine has no IPv6
    CHECK_THROWS(dial_tcp({"::1", 1}), PeerLostError, "[::1]:1");
  }
}

TEST(a_used_up_port_range_is_named) {
  uint16_t port = 0;
  const UniqueFd taken = listen_tcp("127.0.0.1", {}, &port);
  uint16_t unused = 0;
  CHECK_THROWS(listen_tcp("127.0.0.1", {port, port}, &unused), RendezvousError,
               "cannot listen on 127.0.0.1, port " + std::to_string(port) + ": ");
  CHECK_THROWS(listen_tcp("127.0.0.1", {port, port}, &unused), RendezvousError,
               "FASTGPU_PORT_RANGE");
  CHECK_EQ(unused, 0);
  CHECK_THROWS(listen_tcp("127.0.0.1", {7, 6}, &unused), InvalidArgumentError, "7-6");
}

TEST(the_next_port_of_a_range_is_taken) {
  uint16_t first = 0;
  UniqueFd taken = listen_tcp("127.0.0.1", {}, &first);
  while (first > 65000) taken = listen_tcp("127.0.0.1", {}, &first);
  uint16_t port = 0;
  const UniqueFd listener =
      listen_tcp("127.0.0.1", {first, static_cast<uint16_t>(first + 500)}, &port);
  CHECK(port > first);
  CHECK(port <= first + 500);
}

TEST(a_refused_dial_says_whom) {
  uint16_t port = 0;
  UniqueFd closed = listen_tcp("127.0.0.1", {}, &port);
  closed.reset();
  try {
    const UniqueFd dialled = dial_tcp({"127.0.0.1", port});  // at once, or a moment later
    CHECK(test::is_ready(dialled.get(), POLLOUT));
    CHECK_EQ(dial_result(dialled.get()), ECONNREFUSED);
    CHECK(dial_result(dialled.get()) != 0);  // and it stays failed
  } catch (const PeerLostError& error) {
    CHECK(std::string(error.what()).find("127.0.0.1:" + std::to_string(port)) != std::string::npos);
  }
}

TEST(the_end_of_a_listener_is_awaited) {
  uint16_t port = 0;
  UniqueFd listener = listen_tcp("127.0.0.1", {}, &port);
  CHECK(!await_end_of_listener("127.0.0.1", port, now_ns() + 10 * kMillisecond));
  bool ended = false;
  std::thread waiter(
      [&] { ended = await_end_of_listener("127.0.0.1", port, now_ns() + test::kPatience); });
  listener.reset();
  waiter.join();
  CHECK(ended);
  CHECK(await_end_of_listener("127.0.0.1", port, now_ns() + test::kPatience));
}

TEST(a_dial_under_way_says_so) {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&any), sizeof(any)), 0);
  CHECK_EQ(::listen(listener.get(), 0), 0);  // one may wait; the next gets no answer yet
  socklen_t size = sizeof(any);
  CHECK_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&any), &size), 0);
  const Endpoint here{"127.0.0.1", ntohs(any.sin_port)};
  const UniqueFd first = dial_tcp(here);
  CHECK(test::is_ready(first.get(), POLLOUT));
  CHECK_EQ(dial_result(first.get()), 0);
  const UniqueFd second = dial_tcp(here);
  CHECK_EQ(dial_result(second.get()), EINPROGRESS);
}

TEST(only_addresses_are_dialled) {
  CHECK_THROWS(dial_tcp({"localhost", 1}), InvalidArgumentError, "localhost:1");
  CHECK_THROWS(dial_tcp({"", 1}), InvalidArgumentError, "no IPv4 or IPv6 address");
}

TEST(accepting_from_no_listener_is_an_error) {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  CHECK_THROWS(accept_connection(socket.get()), RendezvousError, "cannot accept");
}

}  // namespace
}  // namespace fastgpu
