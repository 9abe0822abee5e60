// The rendezvous: the ranks of a communicator find each other through the store. Each rank writes a
// record of itself and reads the records of all others. Then each rank tests whose memory it can
// map, and writes the result. Only if the ranks are on several hosts do they listen for TCP, and
// write where.
//
// Ownership: plain values. Threading: rendezvous() blocks; every rank calls it once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/options.h"
#include "comm/peer_record.h"
#include "comm/rendezvous_store.h"
#include "control/connector.h"

namespace fastgpu {

struct RendezvousRequest {
  int rank = 0;
  int world = 1;
  std::string name;               // the group's, for error messages
  std::vector<int> global_ranks;  // by rank, for error messages; or empty
  Options options;
  std::string store_host;  // where the store is reached, to find the interface that routes there
  uint16_t store_port = 0;
  std::string constants;  // the cost constants that this process has measured, or empty
  TimeNs deadline = kNever;
};

// The result of the rendezvous. The vectors are by rank.
struct Peers {
  MemberKey member;  // this rank, which the connector expects; detach() takes that back
  std::vector<PeerRecord> records;
  std::vector<int> leaders;  // the lowest rank whose memory the rank can map: itself, if no other
  // Where the process listens for TCP, best first. Empty if all ranks are on one host.
  std::vector<std::vector<Endpoint>> endpoints;
};

// Raises RendezvousError naming the ranks that did not come, that failed, or whose values cannot be
// used, and CollectiveMismatchError where ranks have different options.
Peers rendezvous(const RendezvousRequest& request, RendezvousStore& store, Connector& connector);

}  // namespace fastgpu
