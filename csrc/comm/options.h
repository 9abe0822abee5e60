// The options that a user can set. Each is a field here, a variable FASTGPU_<FIELD>, and a keyword
// of fastgpu_comm.Options; options.cpp lists them in one table.
// Thread safety: plain values.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/call.h"
#include "transport/socket/socket.h"

namespace fastgpu {

enum class Transport : uint8_t { kAuto, kShm, kTcp };

// Whether this rank lets the other ranks of its host read large payloads out of its private memory
// (CMA), instead of copying them into shared memory. kAuto: not on AMD processors.
enum class SingleCopy : uint8_t { kAuto, kNever, kAlways };

// Who carries out collectives on GPUs: kernels that wait for those of peers, wherever all ranks can
// use them; or the host, which enqueues every step. kAuto: the quicker one.
enum class GpuEngine : uint8_t { kAuto, kLanes, kHost };

struct Options {
  Algorithm algorithm = Algorithm::kAuto;
  Transport transport = Transport::kAuto;
  std::string interface;  // see match_interfaces(); empty: the interface that routes to the store
  PortRange port_range;   // to listen on; 0-0: any free port
  int lanes = 0;          // per peer, 1 to kMaxLanes; 0: auto
  bool deterministic = false;
  SingleCopy single_copy = SingleCopy::kAuto;
  Codec codec = Codec::kNone;  // for all_reduces of kLeastEncodedBytes of float32 or more
  GpuEngine gpu_engine = GpuEngine::kAuto;
  std::set<std::string> from_environment;  // names of the fields that FASTGPU_ variables have set
};

// In smaller tensors the latency of two hops outweighs the bytes that a codec saves.
inline constexpr uint64_t kLeastEncodedBytes = 64 * 1024;

inline constexpr int kMaxLanes = 16;

// The names of the fields, in the order of the struct.
const std::vector<std::string>& option_names();

// The field `name` as text, in the form of its variable. InvalidArgumentError names the wrong value
// and the allowed ones.
void set_field(Options& options, const std::string& name, const std::string& text);
std::string get_field(const Options& options, const std::string& name);
// How the user knows the field's value, for errors: "FASTGPU_LANES", or "option 'lanes'" if no
// variable has set it.
std::string label_of(const Options& options, const std::string& name);

// The default options, with what `environment` sets. FASTGPU_LOG takes effect at once. Raises
// InvalidArgumentError for a value that is not allowed, and for an unknown FASTGPU_ variable.
Options options_from_environment(const std::map<std::string, std::string>& environment);
// Every known variable with its default; "" if the default is none or depends on the machine.
std::map<std::string, std::string> variable_defaults();
// This process's variables that begin with FASTGPU_.
std::map<std::string, std::string> fastgpu_environment();

}  // namespace fastgpu
