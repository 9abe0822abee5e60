// simulate(): plays the schedules of all ranks against a model of the machine, event by event. It
// shows effects that a formula leaves out: overlap of lanes, pipelining, slow ranks and links,
// shared network interfaces, and ranks that start late. No data moves; thousands of ranks take
// seconds.
//
// The rules are those of the engine:
//   - In a lane, receives and copies run in order. Sends are posted and leave in order per peer
//     while the channel has room. The rest leaves when the receiver waits for the frame.
//   - Three things serve one request at a time, in the order of arrival: the processor of a rank
//     (for all its lanes and peers), a channel, and each direction of a host's network interface.
//   - A GPU does not set aside its own part of a sum (plan/sums.h).
//   - If a machine has more ranks than cores, the ranks share the cores. A core takes time to
//     switch to another rank.
//
// Ownership: values. Each schedule is requested once, compacted and released. Threading: one
// thread, no shared state. Equal arguments give equal times, bit for bit.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "plan/build.h"
#include "plan/cost/constants.h"

namespace fastgpu {

struct SlowLink {
  int from = 0;
  int to = 0;
  double factor = 1;  // multiplies the latency and the time per byte
};

struct Machine {
  Constants constants;
  std::vector<int> host_of;           // as in PlanRequest; empty: one host
  std::vector<int> machine_of;        // by rank: the machine whose cores it uses; empty: host_of
  uint64_t channel_bytes = 1 << 20;   // bytes that a channel holds before its receiver waits
  std::vector<double> rank_slowness;  // by rank: factor of processor time; empty: 1
  std::vector<double> start_us;       // by rank; empty: 0
  std::vector<SlowLink> slow_links;
};

struct LinkUse {
  int from = 0;
  int to = 0;
  uint64_t frames = 0;
  uint64_t bytes = 0;
  double busy_us = 0;  // sum over lanes

  bool operator==(const LinkUse&) const = default;
};

// Use of a host's network interface.
struct HostUse {
  double sending_us = 0;
  double receiving_us = 0;

  bool operator==(const HostUse&) const = default;
};

struct Simulated {
  std::vector<double> finish_us;  // by rank: its steps are done and its sends have left
  std::vector<double> busy_us;    // by rank: processor time
  std::vector<LinkUse> links;     // links with frames, sorted by (from, to)
  std::vector<HostUse> hosts;

  double end_us() const;  // the latest finish
};

// Called once for each rank, in rank order.
using ScheduleOf = std::function<Schedule(int rank)>;

// Throws InvalidArgumentError if a field of `machine` has the wrong size, or if the schedules do
// not match: the error names a rank that waits forever and the rank that it waits for.
Simulated simulate(int world, const ScheduleOf& schedule_of, const Machine& machine);

// Simulates the schedules that build() returns for `request` on every rank. host_of is taken from
// the machine.
Simulated simulate(const PlanRequest& request, const Machine& machine);

}  // namespace fastgpu
