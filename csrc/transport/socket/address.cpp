#include "transport/socket/address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/shortage.h"
#include "transport/socket/socket.h"

namespace fastgpu {
namespace {

// Four or sixteen bytes of an address, in network order.
struct AddressBits {
  std::array<uint8_t, 16> bytes{};
  unsigned size_bits = 0;
};

std::optional<AddressBits> parse_address(std::string_view text) {
  const std::string address(text.substr(0, text.find('%')));
  AddressBits bits;
  if (::inet_pton(AF_INET, address.c_str(), bits.bytes.data()) == 1) {
    bits.size_bits = 32;
  } else if (::inet_pton(AF_INET6, address.c_str(), bits.bytes.data()) == 1) {
    bits.size_bits = 128;
  } else {
    return std::nullopt;
  }
  return bits;
}

struct Cidr {
  AddressBits network;
  unsigned prefix_bits = 0;

  bool holds(const std::string& address) const {
    const std::optional<AddressBits> other = parse_address(address);
    if (!other || other->size_bits != network.size_bits) return false;
    for (unsigned bit = 0; bit < prefix_bits; bit += 8) {
      const unsigned left = prefix_bits - bit;
      const unsigned mask = left >= 8 ? 0xFFU : 0xFFU << (8 - left) & 0xFFU;
      if (((network.bytes[bit / 8] ^ other->bytes[bit / 8]) & mask) != 0) return false;
    }
    return true;
  }
};

// One entry of FASTGPU_INTERFACE: a block of addresses, or a name of interfaces.
struct Entry {
  std::optional<Cidr> block;
  std::string name;
  bool prefix = false;

  bool admits(const InterfaceAddress& candidate) const {
    if (block) return block->holds(candidate.address);
    return prefix ? candidate.interface.starts_with(name) : candidate.interface == name;
  }
};

// The user's pattern, and what an error about it says.
struct Pattern {
  const std::string& text;
  const std::string& label;
  const std::vector<InterfaceAddress>& all;
};

[[noreturn]] void refuse(const Pattern& pattern, const std::string& why) {
  std::string known;
  for (const InterfaceAddress& one : pattern.all)
    known += (known.empty() ? "" : ", ") + one.interface + " " + one.address;
  raise(ErrorKind::kInvalidArgument,
        pattern.label + " is '" + pattern.text + "', but " + why + "; this host has " +
            (known.empty() ? std::string("no interface that is up") : known) +
            ". Give interface names, prefixes or CIDR blocks, separated by commas; a '^' before "
            "the first excludes them");
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// Parses "10.0.0.0/8", "fd00::/8" or an address; empty if `text` can only be a name.
std::optional<Cidr> parse_cidr(std::string_view text, bool* malformed) {
  const std::size_t slash = text.find('/');
  const std::optional<AddressBits> network = parse_address(text.substr(0, slash));
  *malformed = false;
  if (slash == std::string_view::npos) {
    if (!network) return std::nullopt;
    return Cidr{*network, network->size_bits};
  }
  const std::string_view digits = text.substr(slash + 1);
  unsigned bits = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bits);
  *malformed = !network || error != std::errc() || end != digits.data() + digits.size() ||
               bits > network->size_bits;
  if (*malformed) return std::nullopt;
  return Cidr{*network, bits};
}

Entry parse_entry(std::string_view text, const Pattern& pattern) {
  text = trimmed(text);
  if (text.empty()) refuse(pattern, "an entry is empty");
  Entry entry;
  bool malformed = false;
  entry.block = parse_cidr(text, &malformed);
  if (malformed) refuse(pattern, std::string(text) + " is no CIDR block");
  if (entry.block) return entry;
  entry.prefix = text.ends_with('*');
  if (entry.prefix) text.remove_suffix(1);
  entry.name = text;
  // The full name of an interface matches only that interface: eth1 does not match eth10.
  if (!entry.prefix)
    entry.prefix = std::ranges::none_of(
        pattern.all, [&](const InterfaceAddress& one) { return one.interface == entry.name; });
  return entry;
}

bool is_link_local(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    return (ntohl(v4->sin_addr.s_addr) >> 16) == 0xA9FE;  // 169.254.0.0/16
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address);
  return IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr);
}

}  // namespace

std::string numeric_address(const sockaddr* address) {
  const bool is_v6 = address->sa_family == AF_INET6;
  std::array<char, NI_MAXHOST> text{};
  if (::getnameinfo(address, is_v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in), text.data(),
                    static_cast<socklen_t>(text.size()), nullptr, 0, NI_NUMERICHOST) != 0)
    return {};
  const std::string_view written(text.data());
  constexpr std::string_view kMapped = "::ffff:";
  if (is_v6 && written.starts_with(kMapped) && written.find('.') != std::string_view::npos)
    return std::string(written.substr(kMapped.size()));
  return std::string(written);
}

std::vector<SocketAddress> resolve(const std::string& host, uint16_t port, bool numeric,
                                   std::string* error) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (numeric ? AI_NUMERICHOST : 0);
  addrinfo* found = nullptr;
  const int status = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  std::vector<SocketAddress> addresses;
  if (status == EAI_SYSTEM && is_shortage(errno)) raise_shortage("cannot resolve " + host, errno);
  if (status != 0) {
    *error = ::gai_strerror(status);
    return addresses;
  }
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
    address.size = one->ai_addrlen;
    addresses.push_back(address);
  }
  ::freeaddrinfo(found);
  return addresses;
}

std::string to_string(const Endpoint& endpoint) {
  const bool is_v6 = endpoint.address.find(':') != std::string::npos;
  return (is_v6 ? "[" + endpoint.address + "]" : endpoint.address) + ":" +
         std::to_string(endpoint.port);
}

std::vector<InterfaceAddress> interface_addresses() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0)
    raise_system(ErrorKind::kRendezvous, "cannot list the network interfaces", errno);
  std::vector<std::pair<int, InterfaceAddress>> found;  // with its sort key
  for (const ifaddrs* one = first; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0) continue;
    const bool is_v6 = one->ifa_addr->sa_family == AF_INET6;
    if (!is_v6 && one->ifa_addr->sa_family != AF_INET) continue;
    const bool loopback = (one->ifa_flags & IFF_LOOPBACK) != 0;
    const int order = (loopback ? 4 : 0) + (is_link_local(one->ifa_addr) ? 2 : 0) + (is_v6 ? 1 : 0);
    found.push_back({order, {one->ifa_name, numeric_address(one->ifa_addr), loopback}});
  }
  ::freeifaddrs(first);
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& left, const auto& right) { return left.first < right.first; });
  std::vector<InterfaceAddress> addresses;
  addresses.reserve(found.size());
  for (auto& [order, address] : found) addresses.push_back(std::move(address));
  return addresses;
}

std::vector<InterfaceAddress> match_interfaces(const std::string& pattern,
                                               const std::vector<InterfaceAddress>& all,
                                               const std::string& label) {
  const Pattern asked{pattern, label, all};
  std::string_view rest = trimmed(pattern);
  const bool exclude = rest.starts_with('^');
  if (exclude) rest.remove_prefix(1);
  std::vector<Entry> entries;
  for (bool more = true; more;) {
    const std::size_t comma = rest.find(',');
    entries.push_back(parse_entry(rest.substr(0, comma), asked));
    more = comma != std::string_view::npos;
    if (more) rest.remove_prefix(comma + 1);
  }
  std::vector<InterfaceAddress> admitted;
  for (const InterfaceAddress& candidate : all) {
    const bool named = std::any_of(entries.begin(), entries.end(),
                                   [&](const Entry& entry) { return entry.admits(candidate); });
    if (named != exclude) admitted.push_back(candidate);
  }
  if (admitted.empty()) refuse(asked, "no interface matches");
  return admitted;
}

std::string address_towards(const std::string& host, uint16_t port) {
  std::string error;
  for (const SocketAddress& target : resolve(host, port, false, &error)) {
    // Connecting a datagram socket sends nothing; it only looks up the route.
    const UniqueFd probe(::socket(target.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!probe && is_shortage(errno)) raise_shortage("cannot look up a route", errno);
    if (!probe || ::connect(probe.get(), target.get(), target.size) != 0) continue;
    SocketAddress local;
    local.size = sizeof(local.storage);
    if (::getsockname(probe.get(), local.get(), &local.size) == 0)
      return numeric_address(local.get());
  }
  return {};
}

}  // namespace fastgpu
