// The constants of the cost model: the costs of links, copies and reductions on this machine.
//
// Ownership and threading: plain values, pure functions, any thread.
#pragma once

#include <string>
#include <string_view>

namespace fastgpu {

// One class of links: between ranks of one host (shared memory), or between hosts (TCP).
struct LinkCosts {
  double alpha_us = 0;          // latency: from the moment a byte leaves until it arrives
  double beta_us_per_byte = 0;  // of one lane between two ranks, each direction by itself
  double overhead_us = 0;       // processor time per frame, at either end
  double cpu_us_per_byte = 0;   // processor time per byte moved, at either end

  bool operator==(const LinkCosts&) const = default;
};

// The defaults describe a two-core cloud machine: shared memory through the cache, and TCP over
// loopback. Set-up replaces them by measured values (comm/tuner.h).
struct Constants {
  LinkCosts same_host{0.3, 5e-5, 0.1, 6e-5};
  LinkCosts between_hosts{20.0, 3.5e-4, 2.0, 2.8e-4};
  double nic_us_per_byte = 3e-4;     // shared by all ranks of a host, each direction by itself
  double copy_us_per_byte = 6e-5;    // from memory to memory within a rank
  double reduce_us_per_byte = 1e-5;  // what reducing a byte costs on top of storing it
  int cores_per_host = 0;            // 0: unknown, taken as enough for all ranks
  double switch_us = 2;              // from one rank to another on the same core; not measured
  // A GPU does the steps of a sum at once, and keeps its own part where it is (plan/sums.h). A
  // block costs launches there, and saves none. Not in the text: each rank knows it.
  bool is_gpu = false;

  const LinkCosts& link(bool between) const { return between ? between_hosts : same_host; }
  bool operator==(const Constants&) const = default;
};

// One line of text. Reading it back gives equal constants, bit for bit. Text of another form raises
// InvalidArgumentError.
std::string to_text(const Constants& constants);
Constants constants_from_text(std::string_view text);

}  // namespace fastgpu
