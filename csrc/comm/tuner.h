// The tuner measures the constants of the cost model: the links of this topology, and the memory of
// rank 0's machine.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "comm/topology.h"

namespace fastgpu {

// A collective call of a few milliseconds. Rank 0 exchanges messages with a rank of the same host
// and with a rank of another host, times memory, and broadcasts the result. Every rank returns the
// same text, in the form of plan/cost/constants.h.
//
// The constants describe the hardware, not the load of the moment. So the least time counts, and
// results are clamped to plausible bounds.
std::string measure_constants(Communicator& communicator, const Topology& topology);

}  // namespace fastgpu
