#include "transport/socket/socket.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/error.h"
#include "transport/socket/address.h"

namespace fastgpu {
namespace {

constexpr int kFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;

std::string reason(int error_number) { return std::generic_category().message(error_number); }

void set_option(int socket, int level, int name, int value) noexcept {
  ::setsockopt(socket, level, name, &value, sizeof(value));
}

// A socket that listens on `port` of every address, or empty with errno saying why not.
UniqueFd listen_on(int family, uint16_t port) {
  UniqueFd socket = UniqueFd::of_this_process_only(::socket(family, SOCK_STREAM | kFlags, 0));
  if (!socket) return {};
  SocketAddress address;
  if (family == AF_INET6) {
    set_option(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.size = sizeof(*v6);
  } else {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.size = sizeof(*v4);
  }
  // A port that the user chose may still have closed connections of an earlier run. An ephemeral
  // port must be unused.
  if (port != 0) set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(socket.get(), address.get(), address.size) != 0) return {};
  if (::listen(socket.get(), SOMAXCONN) != 0) return {};
  return socket;
}

UniqueFd listen_on_all(uint16_t port) {
  UniqueFd socket = listen_on(AF_INET6, port);
  if (!socket && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL || errno == EPROTONOSUPPORT))
    socket = listen_on(AF_INET, port);
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

// A connect to an unused port of this host may reach its own socket, which then is both ends.
bool is_its_own_peer(int socket) noexcept {
  SocketAddress local;
  SocketAddress peer;
  local.size = peer.size = sizeof(sockaddr_storage);
  return ::getsockname(socket, local.get(), &local.size) == 0 &&
         ::getpeername(socket, peer.get(), &peer.size) == 0 && local.size == peer.size &&
         std::memcmp(&local.storage, &peer.storage, local.size) == 0;
}

}  // namespace

UniqueFd listen_tcp(const PortRange& range, uint16_t* port) {
  if (range.last < range.first)
    raise(ErrorKind::kInvalidArgument, "the port range " + std::to_string(range.first) + "-" +
                                           std::to_string(range.last) + " ends before it begins");
  int error = EADDRINUSE;
  for (unsigned candidate = range.first; candidate <= range.last; ++candidate) {
    UniqueFd socket = listen_on_all(static_cast<uint16_t>(candidate));
    if (socket) {
      *port = port_of(socket.get());
      return socket;
    }
    error = errno;
    if (error != EADDRINUSE && error != EACCES) break;
  }
  raise(ErrorKind::kRendezvous,
        (range.first == 0 ? std::string("cannot listen on an ephemeral port")
                          : "cannot listen on any port of " + std::to_string(range.first) + "-" +
                                std::to_string(range.last)) +
            ": " + reason(error) +
            "; free a port, or set FASTGPU_PORT_RANGE=first-last to a range with one port for "
            "each process of this host");
}

UniqueFd dial_tcp(const Endpoint& endpoint) {
  std::string error;
  const std::vector<SocketAddress> targets =
      resolve(endpoint.address, endpoint.port, /*numeric=*/true, &error);
  if (targets.empty())
    raise(ErrorKind::kInvalidArgument, "cannot connect to " + to_string(endpoint) +
                                           ": it is no IPv4 or IPv6 address (" + error + ")");
  const SocketAddress& target = targets.front();
  UniqueFd socket =
      UniqueFd::of_this_process_only(::socket(target.storage.ss_family, SOCK_STREAM | kFlags, 0));
  if (!socket)
    raise_system(ErrorKind::kPeerLost, "cannot open a socket to " + to_string(endpoint), errno);
  set_option(socket.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  if (::connect(socket.get(), target.get(), target.size) != 0 && errno != EINPROGRESS &&
      errno != EINTR)
    raise(ErrorKind::kPeerLost, "cannot connect to " + to_string(endpoint) + ": " + reason(errno));
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
        raise_system(ErrorKind::kRendezvous, "cannot accept connections", errno);
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        raise(ErrorKind::kRendezvous, "cannot accept a connection: " + reason(errno) +
                                          "; raise the limit of open files (ulimit -n)");
      default:  // this connection failed before it was accepted; the next one may be good
        continue;
    }
  }
}

}  // namespace fastgpu
