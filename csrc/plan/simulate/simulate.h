// Plays the schedules of all ranks against a model of the machine, event by event: what a closed
// form leaves out (overlap of lanes, pipelining, a slow rank or link, a shared network interface,
// ranks that start late) shows in the times. No data moves; thousands of ranks take seconds.
//
// The rules are the engine's. In a lane, receives and codec steps run in order; sends are posted
// and leave in order per peer while the channel has room, the rest when the receiver stands at the
// frame. What is serial: a rank's processor over its lanes and peers, a channel, and a host's
// network interface in each direction. All three serve whoever came first. Where ranks outnumber
// the cores of a machine, their processors take turns on those, and a core's change from one rank
// to another takes time.
//
// Ownership: values; a schedule is asked for once, compacted and let go. Threading: one thread, no
// shared state. Equal arguments give equal times, bit for bit.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "plan/build.h"
#include "plan/cost.h"

namespace fastgpu {

struct SlowLink {
  int from = 0;
  int to = 0;
  double factor = 1;  // of its latency and of its time a byte
};

struct Machine {
  Constants constants;
  std::vector<int> host_of;           // as in PlanRequest; empty: one host
  std::vector<int> machine_of;        // whose cores a rank runs on; empty: its host's
  uint64_t channel_bytes = 1 << 20;   // what a channel holds before its receiver is there
  std::vector<double> rank_slowness;  // factor of processor time, by rank; empty: 1
  std::vector<double> start_us;       // by rank; empty: 0
  std::vector<SlowLink> slow_links;
};

struct LinkUse {
  int from = 0;
  int to = 0;
  uint64_t frames = 0;
  uint64_t bytes = 0;
  double busy_us = 0;  // all lanes together

  bool operator==(const LinkUse&) const = default;
};

struct HostUse {
  double sending_us = 0;  // the network interface, each direction
  double receiving_us = 0;

  bool operator==(const HostUse&) const = default;
};

struct Simulated {
  std::vector<double> finish_us;  // by rank: its steps are done and its sends have left
  std::vector<double> busy_us;    // by rank: its processor
  std::vector<LinkUse> links;     // those used, by (from, to)
  std::vector<HostUse> hosts;

  double end_us() const;  // of the last rank
};

// Asked once for each rank, in rank order.
using ScheduleOf = std::function<Schedule(int rank)>;

// Raises InvalidArgumentError for a machine of another size, and for schedules that do not match:
// it names a rank that waits for ever, and for whom.
Simulated simulate(int world, const ScheduleOf& schedule_of, const Machine& machine);

// The schedules that build() gives for `request`, whatever its rank; host_of is the machine's.
Simulated simulate(const PlanRequest& request, const Machine& machine);

}  // namespace fastgpu
