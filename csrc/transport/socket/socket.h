// Sockets, as far as connecting ranks needs them: addresses of this host, listening, dialling, and
// passing descriptors. Everything is non-blocking and close-on-exec.
// Thread safety: free functions without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace fastgpu {

// An address to dial: "10.0.0.1", 4711 or "fe80::1%eth0", 4711.
struct Endpoint {
  std::string address;
  uint16_t port = 0;

  bool operator==(const Endpoint&) const = default;
};
std::string to_string(const Endpoint& endpoint);  // "10.0.0.1:4711", "[::1]:4711"

struct PortRange {
  uint16_t first = 0;  // 0: ephemeral
  uint16_t last = 0;
};

struct InterfaceAddress {
  std::string interface;
  std::string address;
  bool loopback = false;
};
// The addresses of the interfaces that are up, IPv4 before IPv6; link-local ones after the others,
// and those of loopback last, so that the first is the best to be reached at.
std::vector<InterfaceAddress> interface_addresses();

// Those that FASTGPU_INTERFACE's syntax admits: a comma list of names, name prefixes ending in '*'
// or not, and CIDR blocks or addresses; a '^' before the first excludes. A name that an interface
// has is that interface alone: eth1 is not eth10. Raises InvalidArgumentError that lists what there
// is when nothing matches.
std::vector<InterfaceAddress> match_interfaces(const std::string& pattern,
                                               const std::vector<InterfaceAddress>& all);

// The local address from which this host reaches `host`:`port` (a name or address), by the routing
// table; empty when it is not reachable.
std::string address_towards(const std::string& host, uint16_t port);

// One listening socket for IPv6 and IPv4 both where the machine has them; the port it got in *port.
// Raises RendezvousError naming the range when no port in it is free.
UniqueFd listen_tcp(const PortRange& range, uint16_t* port);

// Starts to connect to an address (not a name); the socket is writable once it has. Raises
// PeerLostError when refused at once.
UniqueFd dial_tcp(const Endpoint& endpoint);
// How a started connect stands: 0 connected, EINPROGRESS not yet, else the errno it failed with.
int dial_result(int socket) noexcept;
// The next connection that waits (TCP or unix), or an empty fd.
UniqueFd accept_connection(int listener);

// Abstract unix sockets: no file, gone with the process, and only reachable in the same network
// namespace. `name` is without the leading NUL. They are SOCK_SEQPACKET, so that messages keep
// their borders. dial_unix raises PeerLostError when nobody listens, and returns an empty fd when
// the listener has too many connections waiting: try again.
UniqueFd listen_unix(const std::string& name);
// The process at the other end of a unix socket; 0 where it cannot be seen from here.
pid_t process_behind(int socket) noexcept;
UniqueFd dial_unix(const std::string& name);

// One message with descriptors (unix only), whole or not at all; never empty.
// send_message returns false when it would block; raises PeerLostError when the peer is gone. The
// descriptors stay the sender's, too. recv_message raises PeerLostError for what it cannot take.
inline constexpr std::size_t kMaxMessageBytes = 4096;
inline constexpr std::size_t kMaxDescriptors = 8;
struct Message {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> descriptors;
};
bool send_message(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors);
enum class Received : uint8_t { kMessage, kNothing, kClosed };
Received recv_message(int socket, Message& message);

}  // namespace fastgpu
