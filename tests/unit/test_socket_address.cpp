#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "transport/socket/socket.h"

namespace fastgpu {
namespace {

const std::vector<InterfaceAddress>& sample() {
  static const std::vector<InterfaceAddress> all = {
      {"eth1", "10.1.2.3", false},      {"eth10", "10.200.0.1", false},
      {"docker0", "172.17.0.1", false}, {"ib0", "192.168.129.7", false},
      {"eth1", "fd00:12:34::1", false}, {"eth1", "fe80::1%eth1", false},
      {"lo", "127.0.0.1", true},        {"lo", "::1", true},
  };
  return all;
}

std::string matched(const std::string& pattern) {
  std::string joined;
  for (const InterfaceAddress& one : match_interfaces(pattern, sample()))
    joined += (joined.empty() ? "" : " ") + one.address;
  return joined;
}

TEST(endpoints_are_written_as_urls_do) {
  CHECK_EQ(to_string({"10.0.0.1", 4711}), "10.0.0.1:4711");
  CHECK_EQ(to_string({"::1", 4711}), "[::1]:4711");
  CHECK_EQ(to_string({"fe80::1%eth0", 80}), "[fe80::1%eth0]:80");
}

TEST(a_whole_name_means_that_interface_alone) {
  CHECK_EQ(matched("eth1"), "10.1.2.3 fd00:12:34::1 fe80::1%eth1");
  CHECK_EQ(matched("eth1,ib0"), "10.1.2.3 192.168.129.7 fd00:12:34::1 fe80::1%eth1");
}

TEST(a_prefix_matches_with_a_star_or_without) {
  const std::string both = "10.1.2.3 10.200.0.1 fd00:12:34::1 fe80::1%eth1";
  CHECK_EQ(matched("eth"), both);
  CHECK_EQ(matched("eth*"), both);
  CHECK_EQ(matched("eth1*"), both);
}

TEST(blocks_match_addresses_of_their_family) {
  CHECK_EQ(matched("10.0.0.0/8"), "10.1.2.3 10.200.0.1");
  CHECK_EQ(matched("10.1.2.3/16"), "10.1.2.3");  // the bits behind the prefix do not count
  CHECK_EQ(matched("192.168.128.0/23"), "192.168.129.7");
  CHECK_EQ(matched("192.168.129.7"), "192.168.129.7");
  CHECK_EQ(matched("fd00:12::/31"), "fd00:12:34::1");
  CHECK_EQ(matched("fe80::/10"), "fe80::1%eth1");
  CHECK_EQ(matched("0.0.0.0/0"), "10.1.2.3 10.200.0.1 172.17.0.1 192.168.129.7 127.0.0.1");
  CHECK_EQ(matched("::1, 10.1.0.0/16"), "10.1.2.3 ::1");
}

TEST(a_caret_excludes_all_entries) {
  CHECK_EQ(matched("^docker,lo,fe80::/10"), "10.1.2.3 10.200.0.1 192.168.129.7 fd00:12:34::1");
  CHECK_EQ(matched(" ^eth1, docker0 "), "10.200.0.1 192.168.129.7 127.0.0.1 ::1");
}

TEST(what_matches_nothing_is_refused_with_a_list) {
  CHECK_THROWS(matched("wlan0"), InvalidArgumentError,
               "FASTGPU_INTERFACE is 'wlan0', but no interface matches");
  CHECK_THROWS(matched("wlan0"), InvalidArgumentError, "docker0 172.17.0.1, ib0 192.168.129.7");
  CHECK_THROWS(matched("192.168.127.0/24"), InvalidArgumentError, "no interface matches");
  CHECK_THROWS(matched("^0.0.0.0/0,::/0"), InvalidArgumentError, "no interface matches");
}

TEST(malformed_entries_are_refused) {
  CHECK_THROWS(matched("10.0.0.0/33"), InvalidArgumentError, "10.0.0.0/33 is no CIDR block");
  CHECK_THROWS(matched("fd00::/129"), InvalidArgumentError, "is no CIDR block");
  CHECK_THROWS(matched("eth0/8"), InvalidArgumentError, "is no CIDR block");
  CHECK_THROWS(matched("10.0.0.0/"), InvalidArgumentError, "is no CIDR block");
  CHECK_THROWS(matched("10.0.0.0/8x"), InvalidArgumentError, "is no CIDR block");
  CHECK_THROWS(matched("eth1,,ib0"), InvalidArgumentError, "an entry is empty");
  CHECK_THROWS(matched("^"), InvalidArgumentError, "an entry is empty");
  CHECK_THROWS(matched(""), InvalidArgumentError, "an entry is empty");
}

TEST(this_host_has_loopback_and_it_comes_last) {
  const std::vector<InterfaceAddress> all = interface_addresses();
  const auto first_loopback =
      std::find_if(all.begin(), all.end(), [](const auto& one) { return one.loopback; });
  CHECK(first_loopback != all.end());
  CHECK(std::all_of(first_loopback, all.end(), [](const auto& one) { return one.loopback; }));
  CHECK_EQ(match_interfaces("127.0.0.1", all).front().interface, first_loopback->interface);
}

TEST(the_routing_table_says_where_we_are_reached) {
  CHECK_EQ(address_towards("127.0.0.1", 1), "127.0.0.1");
  CHECK_EQ(address_towards("::ffff:127.0.0.1", 1), "127.0.0.1");
  CHECK_EQ(address_towards("no.such.host.invalid", 1), "");
}

}  // namespace
}  // namespace fastgpu
