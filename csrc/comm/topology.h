// Who the ranks are and which of them share a host: what they tell each other when they meet.
// A host is a set of ranks that have really mapped each other's memory; nothing is guessed from
// names or from LOCAL_WORLD_SIZE.
// Thread safety: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/options.h"
#include "comm/store.h"
#include "control/connector.h"
#include "plan/cost.h"

namespace fastgpu {

// One rank's card, exchanged through the store as text.
struct PeerRecord {
  std::string host;  // its name, for messages
  int pid = 0;
  std::string machine;  // the kernel's boot id: ranks with different ones cannot share memory
  std::string unix_name;
  std::vector<int> cores;  // that its process may use
  std::vector<Endpoint> endpoints;
  Transport transport = Transport::kAuto;
  std::string agreed;         // the options that must be the same on every rank
  uint64_t communicator = 0;  // rank 0's is everyone's
  std::string constants;      // rank 0's are everyone's; empty: to be measured
};
std::string to_text(const PeerRecord& record);
// Raises RendezvousError for text of another form.
PeerRecord record_from_text(const std::string& text);

struct Topology {
  std::vector<PeerRecord> records;  // by rank
  std::vector<int> host_of;         // by rank: the host's index, dense, in order of first ranks
  std::vector<PeerAddress> addresses;
  int ranks_on_machine = 1;  // this rank's machine
  int cores_on_machine = 1;  // that those ranks together may use: each may be bound to its own
  int most_on_machine = 1;   // of all machines; the same on every rank
};

struct RendezvousRequest {
  int rank = 0;
  int world = 1;
  std::string name;  // of the group, for messages
  Options options;
  std::string store_host;
  uint16_t store_port = 0;
  std::string constants;  // what this process has measured before, if anything
  TimeNs deadline = kNever;
};

// Meets the other ranks at the store and finds out who shares memory. Raises RendezvousError that
// names the ranks that did not come, or that cannot be reached.
Topology rendezvous(const RendezvousRequest& request, Store& store, Connector& connector);

// "rank 3 (host node7, pid 4711)".
std::string name_of_rank(const Topology& topology, int rank);

}  // namespace fastgpu
