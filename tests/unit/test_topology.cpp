// The topology that a rank derives from the records of all ranks.
#include <string>
#include <vector>

#include "check.h"
#include "comm/topology.h"

namespace fastgpu::test {
namespace {

PeerRecord record_on(const std::string& machine, std::vector<int> cores) {
  PeerRecord record;
  record.host = "host-of-" + machine;
  record.pid = 7;
  record.machine = machine;
  record.unix_name = "name";
  record.cores = std::move(cores);
  return record;
}

// Ranks 0, 1 and 3 are on machine a, where rank 3 does not share memory with the others. Rank 2 is
// on machine b.
Peers two_machines() {
  Peers peers;
  peers.records = {record_on("a", {0, 1}), record_on("a", {1, 2}), record_on("b", {0}),
                   record_on("a", {5})};
  peers.leaders = {0, 0, 2, 3};
  peers.endpoints.assign(4, {{"127.0.0.1", 1}, {"10.0.0.1", 2}, {"::1", 3}, {"fe80::1%eth0", 4}});
  return peers;
}

TEST(ranks_with_the_same_leader_form_a_host) {
  const Topology topology = topology_of(1, two_machines());
  CHECK(topology.host_of == (std::vector<int>{0, 0, 1, 2}));
  CHECK(topology.addresses[0].shared_memory);
  CHECK(!topology.addresses[2].shared_memory);
  CHECK(!topology.addresses[3].shared_memory);
}

TEST(ranks_and_cores_are_those_of_the_ranks_own_machine) {
  const Topology here = topology_of(1, two_machines());
  CHECK_EQ(here.ranks_on_machine, 3);
  CHECK_EQ(here.cores_on_machine, 4);
  CHECK_EQ(here.most_on_machine, 3);
  const Topology there = topology_of(2, two_machines());
  CHECK_EQ(there.ranks_on_machine, 1);
  CHECK_EQ(there.cores_on_machine, 1);
  CHECK_EQ(there.most_on_machine, 3);
}

TEST(loopback_addresses_are_for_the_same_machine) {
  const Topology topology = topology_of(1, two_machines());
  CHECK_EQ(topology.addresses[3].endpoints.size(), std::size_t{4});
  CHECK(topology.addresses[2].endpoints ==
        (std::vector<Endpoint>{{"10.0.0.1", 2}, {"fe80::1%eth0", 4}}));
}

TEST(ranks_are_named_with_host_and_pid) {
  const Topology topology = topology_of(0, two_machines());
  CHECK_EQ(name_of_rank(topology, 2), "rank 2 (host host-of-b, pid 7)");
  CHECK_EQ(name_of_rank(topology, 4), "an unknown rank");
  PeerRecord record = topology.records[2];
  record.global_rank = 2;
  CHECK_EQ(name_of_rank(2, record), "rank 2 (host host-of-b, pid 7)");
  record.global_rank = 6;
  CHECK_EQ(name_of_rank(2, record), "rank 2 (global rank 6, host host-of-b, pid 7)");
  CHECK_EQ(name_of_rank(topology, kNoRank), "an unknown rank");
}

}  // namespace
}  // namespace fastgpu::test
