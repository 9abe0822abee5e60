// build(): from a request to the schedule of one rank. Each algorithm is a builder in
// plan/builders/.
//
// Ownership: values; a request borrows its spans. Threading: pure functions, any thread.
#pragma once

#include <cstdint>
#include <span>

#include "base/call.h"
#include "base/codec.h"
#include "plan/schedule.h"

namespace fastgpu {

// The parameters of a schedule. Sizes of the buffers, in elements of `element_size` bytes, for n
// ranks:
//
//   collective       input             data
//   all_reduce       none              count, in place
//   reduce_scatter   n * count         count
//   all_gather       count             n * count (input may be part `rank` of data)
//   broadcast        none              count, in place
//   reduce           count             count at the root, else none (input may be data)
//   gather           count             n * count at the root, else none
//   scatter          n * count, root   count
//   all_to_all       sum(send_counts)  sum(recv_counts), parts in rank order
//   barrier          none              none
//
// Except for all_to_all, a collective with a count of 0 takes the steps of a barrier.
// If input and data are the same memory, some copies have equal source and target; the engine
// skips them.
struct PlanRequest {
  Collective collective = Collective::kAllReduce;
  Algorithm algorithm = Algorithm::kRing;  // not kAuto: choose() replaces it
  int rank = 0;
  int world = 1;
  uint64_t count = 0;
  uint32_t element_size = 1;
  int lanes = 1;
  // Size of a pipelined step: a chunk of a tree or of a staged broadcast.
  uint64_t chunk_bytes = 256 * 1024;
  // direct all_reduce: 1 or 2, or 0 to decide by size (kOneShotBytes). direct broadcast: 2 for a
  // staged broadcast.
  int shots = 0;
  // How frames are encoded: two-shot direct and hierarchical all_reduce of float32 only.
  Codec codec = Codec::kNone;
  // Ring, two-shot and halving all_reduce process the data block by block, so that a sum is still
  // in the cache when it is sent on. 0: one block.
  uint64_t block_bytes = 0;
  int root = 0;  // broadcast, reduce, gather, scatter
  std::span<const int>
      host_of;  // host of every rank, numbered from 0 without gaps; empty: one host
  // all_to_all: elements to and from every rank; both empty: `count` each.
  std::span<const uint64_t> send_counts;
  std::span<const uint64_t> recv_counts;
};

// Returns the schedule of `request.rank`. The same request gives the same steps on every machine.
// Throws InvalidArgumentError for a bad request, or an algorithm that the collective does not have.
Schedule build(const PlanRequest& request);

// The algorithms of a collective, the default one first.
std::span<const Algorithm> algorithms_of(Collective collective);

}  // namespace fastgpu
