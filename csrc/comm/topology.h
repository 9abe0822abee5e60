// The topology of a communicator, derived from the records that the ranks exchanged at the
// rendezvous. A host is a set of ranks that have mapped each other's memory. Names and environment
// variables such as LOCAL_WORLD_SIZE play no part.
//
// Thread safety: plain values and pure functions.
#pragma once

#include <string>
#include <vector>

#include "comm/rendezvous.h"
#include "control/connector.h"
#include "engine/engine.h"

namespace fastgpu {

struct Topology {
  MemberKey member;  // this rank
  // By rank. Hosts are numbered in the order of their lowest ranks.
  std::vector<PeerRecord> records;
  std::vector<int> host_of;
  std::vector<PeerAddress> addresses;
  // On the machine of this rank. The cores are all that its ranks together may use.
  int ranks_on_machine = 1;
  int cores_on_machine = 1;
  // The most ranks on any machine; every rank has the same value.
  int most_on_machine = 1;
};

// The topology as `rank` sees it.
Topology topology_of(int rank, Peers peers);

// The ranks and cores of this rank's machine.
MachineShare share_of_machine(const Topology& topology);

// Whether all ranks have mapped each other's memory.
bool on_one_host(const Topology& topology);

// "rank 3 (host node7, pid 4711)", or "an unknown rank".
std::string name_of_rank(const Topology& topology, int rank);

}  // namespace fastgpu
