#include "transport/socket/socket.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/error.h"
#include "base/shortage.h"
#include "transport/socket/address.h"

namespace fastgpu {
namespace {

constexpr int kFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;

std::string reason(int error_number) { return std::generic_category().message(error_number); }

void set_option(int socket, int level, int name, int value) noexcept {
  ::setsockopt(socket, level, name, &value, sizeof(value));
}

// A socket that listens on an address with a port, or empty with errno saying why not.
UniqueFd listen_on(const SocketAddress& address, bool is_ephemeral) {
  UniqueFd socket =
      UniqueFd::of_this_process_only(::socket(address.storage.ss_family, SOCK_STREAM | kFlags, 0));
  if (!socket) return {};
  // A port that the user chose may still have closed connections of an earlier run. An ephemeral
  // port must be unused.
  if (!is_ephemeral) set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(socket.get(), address.get(), address.size) != 0) return {};
  if (::listen(socket.get(), SOMAXCONN) != 0) return {};
  return socket;
}

uint16_t port_of(int socket) {
  SocketAddress address;
  address.size = sizeof(address.storage);
  if (::getsockname(socket, address.get(), &address.size) != 0)
    raise_system(ErrorKind::kRendezvous, "cannot read the port of a listening socket", errno);
  const auto* any = reinterpret_cast<const sockaddr_in*>(&address.storage);
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  return ntohs(any->sin_port);
}

SocketAddress kernel_address(const Endpoint& endpoint) {
  std::string error;
  const std::vector<SocketAddress> targets =
      resolve(endpoint.address, endpoint.port, /*numeric=*/true, &error);
  if (targets.empty())
    raise(ErrorKind::kInvalidArgument,
          "cannot use " + to_string(endpoint) + ": it is no IPv4 or IPv6 address (" + error + ")");
  return targets.front();
}

// A connect to an unused port of this host may reach its own socket, which then is both ends.
bool is_its_own_peer(int socket) noexcept {
  SocketAddress local;
  SocketAddress peer;
  local.size = peer.size = sizeof(sockaddr_storage);
  return ::getsockname(socket, local.get(), &local.size) == 0 &&
         ::getpeername(socket, peer.get(), &peer.size) == 0 && local.size == peer.size &&
         std::memcmp(&local.storage, &peer.storage, local.size) == 0;
}

bool wait_for_events(int socket, short events, TimeNs deadline) {
  pollfd wanted{.fd = socket, .events = events, .revents = 0};
  for (TimeNs left = deadline - now_ns(); left > 0; left = deadline - now_ns()) {
    const int ready = ::poll(&wanted, 1, static_cast<int>(left / kMillisecond) + 1);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
  return false;
}

// A connection to the address; empty if nobody listens there, or at the deadline.
UniqueFd connected_to(const SocketAddress& target, TimeNs deadline) {
  UniqueFd socket =
      UniqueFd::of_this_process_only(::socket(target.storage.ss_family, SOCK_STREAM | kFlags, 0));
  if (!socket) return {};
  if (::connect(socket.get(), target.get(), target.size) != 0 && errno != EINPROGRESS) return {};
  if (!wait_for_events(socket.get(), POLLOUT, deadline)) return {};
  return dial_result(socket.get()) == 0 ? std::move(socket) : UniqueFd();
}

}  // namespace

std::string to_string(const PortRange& range) {
  const std::string first = std::to_string(range.first);
  return range.first == range.last ? first : first + "-" + std::to_string(range.last);
}

UniqueFd listen_tcp(const std::string& address, const PortRange& range, uint16_t* port) {
  if (range.last < range.first)
    raise(ErrorKind::kInvalidArgument,
          "the port range " + to_string(range) + " ends before it begins");
  int error = EADDRINUSE;
  for (unsigned candidate = range.first; candidate <= range.last; ++candidate) {
    UniqueFd socket = listen_on(kernel_address({address, static_cast<uint16_t>(candidate)}),
                                /*is_ephemeral=*/candidate == 0);
    if (socket) {
      *port = port_of(socket.get());
      return socket;
    }
    error = errno;
    if (is_shortage(error)) raise_shortage("cannot listen for TCP connections", error);
    if (error != EADDRINUSE && error != EACCES) break;
  }
  raise(ErrorKind::kRendezvous,
        "cannot listen on " + address +
            (range.first == 0 ? std::string(", any port") : ", port " + to_string(range)) + ": " +
            reason(error) +
            "; free a port, or set FASTGPU_PORT_RANGE=first-last to a range with one port for "
            "each process of this host");
}

UniqueFd dial_tcp(const Endpoint& endpoint) {
  const SocketAddress target = kernel_address(endpoint);
  UniqueFd socket =
      UniqueFd::of_this_process_only(::socket(target.storage.ss_family, SOCK_STREAM | kFlags, 0));
  if (!socket)
    raise_system(ErrorKind::kPeerLost, "cannot open a socket to " + to_string(endpoint), errno);
  set_option(socket.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  if (::connect(socket.get(), target.get(), target.size) != 0 && errno != EINPROGRESS &&
      errno != EINTR) {
    if (is_shortage(errno)) raise_shortage("cannot connect to " + to_string(endpoint), errno);
    raise(ErrorKind::kPeerLost, to_string(endpoint) + " (" + reason(errno) + ")");
  }
  return socket;
}

std::string describe_peer(int socket) {
  SocketAddress peer;
  peer.size = sizeof(peer.storage);
  if (::getpeername(socket, peer.get(), &peer.size) != 0) return "a closed connection";
  if (peer.storage.ss_family == AF_UNIX) return "process " + std::to_string(process_behind(socket));
  return numeric_address(peer.get());
}

int dial_result(int socket) noexcept {
  pollfd wanted{.fd = socket, .events = POLLOUT, .revents = 0};
  if (::poll(&wanted, 1, 0) == 0) return EINPROGRESS;
  int error = 0;
  socklen_t size = sizeof(error);
  if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  if (error != 0) return error;
  // Reading SO_ERROR clears it, so a second call for a failed socket needs another test.
  SocketAddress peer;
  peer.size = sizeof(peer.storage);
  if (::getpeername(socket, peer.get(), &peer.size) != 0) return errno;
  return is_its_own_peer(socket) ? ECONNREFUSED : 0;
}

bool await_end_of_listener(const std::string& host, uint16_t port, TimeNs deadline) {
  std::string error;
  for (const SocketAddress& target : resolve(host, port, /*numeric=*/false, &error)) {
    // A connection ends with its listener. The next connect shows whether another one listens.
    while (const UniqueFd socket = connected_to(target, deadline)) {
      if (!wait_for_events(socket.get(), POLLIN, deadline)) return false;
    }
    if (now_ns() >= deadline) return false;
  }
  return true;
}

UniqueFd accept_connection(int listener) {
  for (;;) {
    UniqueFd socket = UniqueFd::of_this_process_only(::accept4(listener, nullptr, nullptr, kFlags));
    if (socket) {
      set_option(socket.get(), IPPROTO_TCP, TCP_NODELAY, 1);  // without effect on a unix socket
      return socket;
    }
    switch (errno) {
      case EAGAIN:
        return {};
      case EBADF:
      case EFAULT:
      case EINVAL:
      case ENOTSOCK:
      case EOPNOTSUPP:
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        raise_system(ErrorKind::kRendezvous, "cannot accept a connection", errno);
      default:  // this connection failed before it was accepted; the next one may be good
        continue;
    }
  }
}

}  // namespace fastgpu
