#include "comm/topology.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace fastgpu {
namespace {

// Ranks with the same leader form a host.
std::vector<int> hosts_of(const std::vector<int>& leaders) {
  std::vector<int> seen;
  std::vector<int> hosts;
  for (const int leader : leaders) {
    const auto found = std::find(seen.begin(), seen.end(), leader);
    hosts.push_back(static_cast<int>(found - seen.begin()));
    if (found == seen.end()) seen.push_back(leader);
  }
  return hosts;
}

// How `mine` reaches `peer`.
PeerAddress address_of(const PeerRecord& mine, const PeerRecord& peer, bool same_host,
                       const std::vector<Endpoint>& endpoints) {
  PeerAddress address;
  address.shared_memory = same_host;
  address.unix_name = peer.unix_name;
  for (const Endpoint& endpoint : endpoints) {
    if (peer.machine == mine.machine || !is_loopback(endpoint.address)) {
      address.endpoints.push_back(endpoint);
    }
  }
  return address;
}

}  // namespace

Topology topology_of(int rank, Peers peers) {
  Topology topology;
  topology.member = peers.member;
  topology.records = std::move(peers.records);
  topology.host_of = hosts_of(peers.leaders);
  const PeerRecord& mine = topology.records[static_cast<std::size_t>(rank)];
  std::map<std::string, int> ranks_of_machine;
  std::set<int> cores;
  for (std::size_t peer = 0; peer < topology.records.size(); ++peer) {
    const PeerRecord& record = topology.records[peer];
    const int ranks = ++ranks_of_machine[record.machine];
    topology.most_on_machine = std::max(topology.most_on_machine, ranks);
    if (record.machine == mine.machine) cores.insert(record.cores.begin(), record.cores.end());
    const bool same_host =
        topology.host_of[peer] == topology.host_of[static_cast<std::size_t>(rank)];
    topology.addresses.push_back(&record == &mine
                                     ? PeerAddress{}
                                     : address_of(mine, record, same_host, peers.endpoints[peer]));
  }
  topology.ranks_on_machine = ranks_of_machine[mine.machine];
  topology.cores_on_machine = static_cast<int>(cores.size());
  return topology;
}

MachineShare share_of_machine(const Topology& topology) {
  return {.ranks = topology.ranks_on_machine, .cores = topology.cores_on_machine};
}

bool on_one_host(const Topology& topology) {
  return std::ranges::all_of(topology.host_of, [](int host) { return host == 0; });
}

std::string name_of_rank(const Topology& topology, int rank) {
  if (rank < 0 || rank >= static_cast<int>(topology.records.size())) return "an unknown rank";
  return name_of_rank(rank, topology.records[static_cast<std::size_t>(rank)]);
}

}  // namespace fastgpu
