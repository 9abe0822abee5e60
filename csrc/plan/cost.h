// What a collective costs: alpha-beta-gamma constants of a topology, and closed forms over them.
//
// The model is Hockney's alpha + beta*s for a link, with Thakur, Rabenseifner and Gropp's gamma for
// reduction, and the processor's own share apart, as in LogGP: a step costs each end `overhead` and
// each byte costs each end `cpu`, serially over the lanes and peers of a rank,
// unless several engine threads share its lanes out, while links and ranks work side by side.
// Frames are cut through: a receiver takes the first piece while the last one leaves, so a step
// lasts as long as its slowest part, not as long as their sum.
//
// Ownership: plain values. Thread safety: pure functions, any thread. The same values give the same
// bits on every machine (basic arithmetic and square roots only, no contraction), because ranks
// choose algorithms by these prices and must never disagree.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/call.h"

namespace fastgpu {

// A class of links: between ranks of one host (shared memory), or between hosts (TCP).
struct LinkCosts {
  double alpha_us = 0;          // from a byte's leaving to its arrival
  double beta_us_per_byte = 0;  // of one lane between two ranks, each direction by itself
  double overhead_us = 0;       // processor time of a frame, at either end
  double cpu_us_per_byte = 0;   // processor time of moving a byte, at either end

  bool operator==(const LinkCosts&) const = default;
};

// The defaults are of a two-core cloud machine: shared memory staged through the cache, and TCP
// over loopback. Set-up replaces them by what it measures.
struct Constants {
  LinkCosts same_host{0.3, 5e-5, 0.1, 6e-5};
  LinkCosts between_hosts{20.0, 3.5e-4, 2.0, 2.8e-4};
  double nic_us_per_byte = 3e-4;     // of all ranks of a host together, each direction by itself
  double copy_us_per_byte = 6e-5;    // from memory to memory within a rank
  double reduce_us_per_byte = 1e-5;  // what reducing a byte costs more than storing it
  int cores_per_host = 0;            // more ranks than cores take turns on them; 0: enough
  double switch_us = 2;              // from one rank to another on the same core; not measured

  bool operator==(const Constants&) const = default;
};

// One line without spaces at its ends; reading it back gives equal constants, bit for bit. Text of
// another form raises InvalidArgumentError.
std::string to_text(const Constants& constants);
Constants constants_from_text(std::string_view text);

// How the ranks lie on hosts, as far as prices go. Hosts are taken to hold consecutive ranks.
struct Placement {
  int world = 1;
  int hosts = 1;
  int most_per_host = 1;
  int fewest_per_host = 1;
  int most_per_machine = 1;  // ranks that share cores, also where they cannot share memory
  int engine_threads = 1;    // of a rank, that move its lanes where cores are free

  bool operator==(const Placement&) const = default;
};

// `host_of` as in PlanRequest: the dense host index of every rank; empty: one host. Hosts are taken
// to be machines.
Placement placement_of(int world, std::span<const int> host_of);

struct PriceRequest {
  Collective collective = Collective::kAllReduce;
  Algorithm algorithm = Algorithm::kRing;
  uint64_t bytes = 0;  // count * element size, count as in Call
  int lanes = 1;
  int shots = 0;  // as in PlanRequest
  uint64_t chunk_bytes = 256 * 1024;
  Placement placement;
};

// Time from the common start to the last rank's end. Raises InvalidArgumentError for kAuto.
double predict_us(const PriceRequest& request, const Constants& constants);

// The chunk that makes a pipelined tree cheapest: enough chunks to fill the pipeline, few enough
// that their latencies do not add up. A power of two from 4 to 256 KiB, which a cache holds.
uint64_t tree_chunk_bytes(const PriceRequest& request, const Constants& constants);

}  // namespace fastgpu
