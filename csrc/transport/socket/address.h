// Addresses in the form of the kernel, for the files that implement socket.h.
// Thread safety: free functions without state.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

namespace fastgpu {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;

  const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() noexcept { return reinterpret_cast<sockaddr*>(&storage); }
};

// The addresses of `host`:`port`. `host` is a name or an address, or must be an address if
// `numeric`. The result is empty if there is none; the reason is then in *error.
std::vector<SocketAddress> resolve(const std::string& host, uint16_t port, bool numeric,
                                   std::string* error);

// "10.0.0.1" or "fe80::1%eth0"; an IPv4 address mapped into IPv6 is written as the IPv4 one.
std::string numeric_address(const sockaddr* address);

}  // namespace fastgpu
