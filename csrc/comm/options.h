// What a user may set: a field here, a FASTGPU_<FIELD> variable, a keyword of fastgpu_comm.Options.
// Thread safety: values.
#pragma once

#include <map>
#include <string>

#include "base/call.h"
#include "transport/socket/socket.h"

namespace fastgpu {

// Whether this rank leaves large payloads in its private memory, for its host's others to read.
enum class SingleCopy : uint8_t { kAuto, kNever, kAlways };

enum class Transport : uint8_t { kAuto, kShm, kTcp };

struct Options {
  Algorithm algorithm = Algorithm::kAuto;
  Transport transport = Transport::kAuto;
  std::string interface;  // FASTGPU_INTERFACE's syntax; empty: the route to the store
  PortRange port_range;   // 0-0: ephemeral
  int lanes = 0;          // 0: auto; 1 to kMaxLanes
  bool deterministic = false;
  SingleCopy single_copy = SingleCopy::kAuto;
};

inline constexpr int kMaxLanes = 16;

// Sets the field that `name` ("algorithm", "port_range") names from text as a variable holds it.
// Raises InvalidArgumentError that says what was given and what is allowed.
void set_field(Options& options, const std::string& name, const std::string& text);
std::string get_field(const Options& options, const std::string& name);
// The names that set_field takes.
const std::vector<std::string>& option_names();

// The defaults, overridden by the FASTGPU_ variables of `environment`, of which FASTGPU_LOG takes
// effect at once. Raises InvalidArgumentError for a bad value and for a FASTGPU_ variable that is
// not known, listing those that are.
Options options_from_environment(const std::map<std::string, std::string>& environment);
// The FASTGPU_ variables of this process.
std::map<std::string, std::string> fastgpu_environment();

}  // namespace fastgpu
