// Ranks that share a GPU, as the host-driven engine runs them: no kernel waits for another, events
// order the streams. Two hops: every input is ready; every rank sums its part for all ranks.
#pragma once

#include <cstdint>
#include <string>

#include "simt_machine.h"

namespace fastgpu::test {

// Runs two all_reduces in a row. Returns what went wrong, or "".
std::string run_streams(uint64_t seed, simt::MachineFault fault = simt::MachineFault::kNone);

}  // namespace fastgpu::test
