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
// The addresses of the interfaces that are up, IPv4 before IPv6, link-local ones last.
std::vector<InterfaceAddress> interface_addresses();

// Those that FASTGPU_INTERFACE's syntax admits: a comma list of names, name prefixes ending in '*'
// or not, and CIDR blocks; a '^' before the first excludes. Raises InvalidArgumentError that lists
// what there is when nothing matches.
std::vector<InterfaceAddress> match_interfaces(const std::string& pattern,
                                               const std::vector<InterfaceAddress>& all);

// The local address from which this host reaches `host`:`port` (a name or address), by the routing
// table; empty when it is not reachable.
std::string address_towards(const std::string& host, uint16_t port);

// One listening socket for IPv6 and IPv4 both where the machine has them; the port it got in *port.
// Raises RendezvousError naming the range when no port in it is free.
UniqueFd listen_tcp(const PortRange& range, uint16_t* port);

// Starts to connect; the socket is writable once it has. Raises PeerLostError when refused at once.
UniqueFd dial_tcp(const Endpoint& endpoint);
// How a started connect stands: 0 connected, EINPROGRESS not yet, else the errno it failed with.
int dial_result(int socket) noexcept;
// The next connection that waits, or an empty fd.
UniqueFd accept_connection(int listener);

// Abstract unix sockets: no file, gone with the process, and only reachable in the same network
// namespace. `name` is without the leading NUL.
UniqueFd listen_unix(const std::string& name);
UniqueFd dial_unix(const std::string& name);

// One message of up to a few hundred bytes with descriptors (unix only), whole or not at all.
// send_message returns false when it would block; raises PeerLostError when the peer is gone.
struct Message {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> descriptors;
};
bool send_message(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors);
enum class Received : uint8_t { kMessage, kNothing, kClosed };
Received recv_message(int socket, Message& message);
// unix sockets here are SOCK_SEQPACKET, so that messages keep their borders.

}  // namespace fastgpu
