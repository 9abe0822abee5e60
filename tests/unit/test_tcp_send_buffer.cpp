// The send buffer stays small on a short path, and is the kernel's on one that holds more.
#include <poll.h>
#include <sys/socket.h>

#include <vector>

#include "check.h"
#include "transport/socket/socket.h"
#include "transport/tcp/send_buffer.h"

namespace fastgpu {
namespace {

#ifdef SO_BUF_LOCK
constexpr int kLooks = 1000;

int option(const UniqueFd& socket, int name) {
  int value = 0;
  socklen_t size = sizeof(value);
  CHECK_EQ(::getsockopt(socket.get(), SOL_SOCKET, name, &value, &size), 0);
  return value;
}

bool is_locked(const UniqueFd& socket) { return (option(socket, SO_BUF_LOCK) & 1) != 0; }

struct Connection {
  UniqueFd sender;
  UniqueFd receiver;

  Connection() {
    uint16_t port = 0;
    const UniqueFd listener = listen_tcp("127.0.0.1", {}, &port);
    sender = dial_tcp({"127.0.0.1", port});
    wait_for(listener, POLLIN);
    wait_for(sender, POLLOUT);
    CHECK_EQ(dial_result(sender.get()), 0);
    receiver = accept_connection(listener.get());
  }

  static void wait_for(const UniqueFd& socket, short events) {
    pollfd wanted{.fd = socket.get(), .events = events, .revents = 0};
    CHECK_EQ(::poll(&wanted, 1, 10'000), 1);
  }

  void pass(std::size_t size) const {
    std::vector<std::byte> bytes(1 << 16);
    for (std::size_t passed = 0; passed < size;) {
      wait_for(sender, POLLOUT);
      const ssize_t put = ::send(sender.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      CHECK(put > 0);
      for (ssize_t taken = 0; taken < put;) {
        wait_for(receiver, POLLIN);
        const ssize_t got = ::recv(receiver.get(), bytes.data(), bytes.size(), 0);
        CHECK(got > 0);
        taken += got;
      }
      passed += static_cast<std::size_t>(put);
    }
  }
};

TEST(a_short_path_keeps_the_buffer_small) {
  const Connection connection;
  const int before = option(connection.sender, SO_SNDBUF);
  TcpSendBuffer buffer(connection.sender.get());
  CHECK(is_locked(connection.sender));
  CHECK(option(connection.sender, SO_SNDBUF) < before);
  for (int i = 0; i < kLooks; ++i) buffer.on_full();  // nothing was sent: the path holds nothing
  CHECK(is_locked(connection.sender));
}

TEST(a_path_that_holds_more_gets_the_kernels_buffer) {
  const Connection connection;
  connection.pass(1 << 20);
  TcpSendBuffer buffer(connection.sender.get(), 1);  // the kernel's least: any path holds more
  const int small = option(connection.sender, SO_SNDBUF);
  CHECK(is_locked(connection.sender));
  for (int i = 0; i < kLooks; ++i) buffer.on_full();
  CHECK(!is_locked(connection.sender));
  connection.pass(8 << 20);
  CHECK(option(connection.sender, SO_SNDBUF) > small);
}

TEST(a_buffer_that_somebody_set_is_left_alone) {
  const Connection connection;
  const int chosen = 50'000;
  ::setsockopt(connection.sender.get(), SOL_SOCKET, SO_SNDBUF, &chosen, sizeof(chosen));
  connection.pass(1 << 20);
  TcpSendBuffer buffer(connection.sender.get(), 1);
  CHECK_EQ(option(connection.sender, SO_SNDBUF), 2 * chosen);
  for (int i = 0; i < kLooks; ++i) buffer.on_full();
  CHECK(is_locked(connection.sender));
}
#endif

}  // namespace
}  // namespace fastgpu
