// The rendezvous: the ranks of a communicator find each other through the store. Each rank writes a
// record of itself and reads the records of all others. Then each rank tests whose memory it can
// map, and writes the result.
//
// Ownership: plain values. Threading: rendezvous() blocks; every rank calls it once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/options.h"
#include "comm/store.h"
#include "control/connector.h"

namespace fastgpu {

// Increases with every change of the wire protocol. Ranks of different versions do not communicate.
inline constexpr int kProtocolVersion = 2;

// The data that a rank publishes about itself. docs/wire.md specifies the text form.
struct PeerRecord {
  std::string host;                 // host name, for error messages
  int pid = 0;                      // process id, for error messages
  std::string machine;              // the kernel's boot id; other machines cannot share memory
  std::string unix_name;            // name of the process's unix socket
  std::vector<int> cores;           // the cores that the process may run on
  std::vector<Endpoint> endpoints;  // where the process listens for TCP, best first
  Transport transport = Transport::kAuto;
  std::string agreed;         // the options that must be equal on every rank
  uint64_t communicator = 0;  // 64 random bits; rank 0's value becomes the communicator id
  std::string constants;      // the process's cost constants, or empty; rank 0's value counts
};
std::string to_text(const PeerRecord& record);
// Raises RendezvousError for another version, and for a field that is missing, repeated, unknown,
// malformed or out of range.
PeerRecord record_from_text(const std::string& text);
// "rank 3 (host node7, pid 4711)".
std::string name_of_rank(int rank, const PeerRecord& record);

struct RendezvousRequest {
  int rank = 0;
  int world = 1;
  std::string name;  // the group's, for error messages
  Options options;
  std::string store_host;  // where the store is reached, to find the interface that routes there
  uint16_t store_port = 0;
  std::string constants;  // the cost constants that this process has measured, or empty
  TimeNs deadline = kNever;
};

// The result of the rendezvous, by rank.
struct Peers {
  std::vector<PeerRecord> records;
  std::vector<int> leaders;  // the lowest rank whose memory the rank can map: itself, if no other
};

// Raises RendezvousError naming the ranks that did not come or whose values cannot be used, and
// CollectiveMismatchError where ranks have different options.
Peers rendezvous(const RendezvousRequest& request, Store& store, Connector& connector);

}  // namespace fastgpu
