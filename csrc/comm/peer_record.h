// The texts that ranks exchange through the store when they set up a group. docs/wire.md specifies
// each of them.
// Thread safety: plain values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/options.h"
#include "transport/socket/socket.h"

namespace fastgpu {

// Increases with every change of the wire protocol. Ranks of different versions do not communicate.
inline constexpr int kProtocolVersion = 3;
inline constexpr int kMaxCores = 1 << 16;
inline constexpr std::size_t kMaxEndpoints = 8;

// Identifies a process for people.
struct ProcessName {
  std::string host;
  int pid = 0;
  int global_rank = kNoRank;  // in the default group; not published, but set by the reader

  bool operator==(const ProcessName&) const = default;
};
ProcessName this_process();
std::string to_string(const ProcessName& process);  // "host node7, pid 4711"
// "rank 3 (host node7, pid 4711)", or "rank 3 (global rank 7, host node7, pid 4711)".
std::string name_of_rank(int rank, const ProcessName& process);

// The data that a rank publishes about itself.
struct PeerRecord : ProcessName {
  int world = 1;
  std::string machine;     // the kernel's boot id; other machines cannot share memory
  std::string unix_name;   // name of the process's unix socket
  std::vector<int> cores;  // the cores that the process may run on
  Transport transport = Transport::kAuto;
  std::string agreed;         // the options that must be equal on every rank
  uint64_t communicator = 0;  // 64 random bits; rank 0's value becomes the communicator id
  std::string constants;      // the process's cost constants, or empty; rank 0's value counts
};

// Why a rank could not set up the group.
struct SetUpFailure : ProcessName {
  int rank = kNoRank;
  ErrorKind kind = ErrorKind::kRendezvous;
  std::string reason;
};

// Other machines cannot reach a loopback address.
bool is_loopback(const std::string& address);

std::string to_text(const PeerRecord& record);
std::string to_text(const SetUpFailure& failure);
std::string to_text(const std::vector<Endpoint>& endpoints);

// Each raises RendezvousError for another version, and for a field that is missing, repeated,
// unknown, malformed or out of range.
PeerRecord record_from_text(const std::string& text);
SetUpFailure set_up_failure_from_text(const std::string& text);
std::vector<Endpoint> endpoints_from_text(const std::string& text);

}  // namespace fastgpu
