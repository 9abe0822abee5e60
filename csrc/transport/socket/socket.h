// Sockets for connecting ranks: addresses of this host, listening, dialling, and passing
// descriptors. Every socket is non-blocking and close-on-exec.
// Thread safety: free functions without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace fastgpu {

inline constexpr int kMaxPort = 65535;

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
std::string to_string(const PortRange& range);  // "4000-4010", or "4000" if it is one port

struct InterfaceAddress {
  std::string interface;
  std::string address;
  bool loopback = false;
};
// The addresses of the interfaces that are up, best first: IPv4 before IPv6, then link-local, then
// loopback.
std::vector<InterfaceAddress> interface_addresses();

// The addresses that match `pattern`, in the syntax of FASTGPU_INTERFACE: a comma list of names,
// name prefixes (a final '*' is optional), CIDR blocks and addresses. A leading '^' excludes them
// instead. The full name of an interface matches only that interface: eth1 does not match eth10.
// Raises InvalidArgumentError with the existing interfaces if nothing matches; `label` is the name
// by which the user knows the pattern.
std::vector<InterfaceAddress> match_interfaces(const std::string& pattern,
                                               const std::vector<InterfaceAddress>& all,
                                               const std::string& label = "FASTGPU_INTERFACE");

// The local address that the routing table uses towards `host`:`port` (a name or address); empty if
// there is no route.
std::string address_towards(const std::string& host, uint16_t port);

// Listens on one address of this host. Returns the socket, and its port in *port. Raises
// RendezvousError, which names the address and the range, if no port of the range is free there.
UniqueFd listen_tcp(const std::string& address, const PortRange& range, uint16_t* port);

// Starts to connect to an address (not a name). The socket becomes writable when it is connected or
// has failed. Raises PeerLostError if the connect is refused at once: "10.0.0.1:4711 (No route to
// host)".
UniqueFd dial_tcp(const Endpoint& endpoint);
// The state of a started connect: 0 connected, EINPROGRESS not yet, else the errno of its failure.
int dial_result(int socket) noexcept;
// The next connection to a TCP or unix listener; empty if none waits. Raises OutOfResourcesError
// if this process has no descriptor left.
UniqueFd accept_connection(int listener);

// Waits until no process listens at `host`:`port` (a name or an address) any more. Returns false at
// the deadline.
bool await_end_of_listener(const std::string& host, uint16_t port, TimeNs deadline);

// Abstract unix sockets have no file and end with their process. Only processes of the same network
// namespace can reach them. `name` is without the leading NUL. Their type is SOCK_SEQPACKET: one
// send is one message. dial_unix raises PeerLostError if no process listens. It raises
// AuthenticationError if the process is another user's than `user`, by default this process's user.
// It returns an empty fd if the backlog of the listener is full: try again later.
UniqueFd listen_unix(const std::string& name);
UniqueFd dial_unix(const std::string& name);
UniqueFd dial_unix(const std::string& name, uid_t user);
// The process at the other end of a unix socket; 0 if it is in another pid namespace.
pid_t process_behind(int socket) noexcept;
// Raises AuthenticationError, and logs a warning, if the other end of a unix socket belongs to
// another user than `user`: any user of the machine can connect to an abstract socket.
void check_user(int socket, uid_t user);
// The other end of a connection, for messages: "process 4711" (unix) or "10.0.0.7".
std::string describe_peer(int socket);

// One message with descriptors, over a unix socket. A message is never empty. It is sent or
// received whole or not at all. send_message returns false if it would block, and raises
// PeerLostError if the peer is gone; the descriptors still belong to the caller. recv_message
// raises PeerLostError for a message that is too large, and OutOfResourcesError for one whose
// descriptors this process cannot take.
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
