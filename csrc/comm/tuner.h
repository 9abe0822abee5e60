// Measures what the planner needs: the links of this topology, and this host's memory.
#pragma once

#include <span>
#include <string>

#include "comm/communicator.h"

namespace fastgpu {

// A collective call of a few milliseconds: rank 0 exchanges messages with one rank of its host and
// one of another, times its own memory, and tells everyone. Returns the same constants (as text,
// plan/cost.h) on every rank.
std::string measure_constants(Communicator& communicator, std::span<const int> host_of);

}  // namespace fastgpu
