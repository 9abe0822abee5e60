// Measures what the planner needs: the links of this topology, and this host's memory.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "comm/topology.h"

namespace fastgpu {

// A collective call of a few milliseconds: rank 0 exchanges messages with one rank of its host and
// one of another, times its own memory, and tells everyone. Least times count, within plausible
// bounds, so that constants speak of the machine and not of what else it does. Returns the same (as
// text, plan/cost.h) on every rank.
std::string measure_constants(Communicator& communicator, const Topology& topology);

}  // namespace fastgpu
