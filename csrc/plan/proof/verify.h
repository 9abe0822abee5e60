// Proves that a set of schedules does what its collective promises, by running all ranks on
// symbols instead of numbers. What is proven, for every order in which ranks may be polled:
//   - each result byte holds the right contributions, each exactly once, and for all_reduce the
//     same order of reduction on every rank; a barrier ends nowhere before it began everywhere;
//   - no deadlock, also where a send leaves only when its receiver stands there (capacity 0); no
//     unmatched send; frames agree in size and ordinal;
//   - no step writes over a region with a send pending; nothing unwritten is read; the input stays
//     as it is; regions are whole elements inside their buffers; lanes share nothing;
//   - the handshake: ranks that exchange frames one way in a lane do so the other way, too.
// Reduce and all_gather are proven twice, the second time with input and data in one memory.
//
// Threading: pure functions, any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan/build.h"

namespace fastgpu {

struct VerifyOptions {
  int capacity = 0;   // frames a channel holds; 0: rendezvous, the strictest
  uint64_t seed = 1;  // of the poll order
  // all_to_all only: elements from rank i to rank j at i * world + j; empty: `count` each.
  std::span<const uint64_t> all_counts;
};

struct Proof {
  std::string counterexample;        // empty: it holds
  std::vector<uint64_t> bytes_sent;  // by rank, payload only
  std::vector<uint64_t> frames_sent;
  std::vector<uint64_t> steps;
  int rounds = 0;                   // the longest chain of frames, one after another
  std::vector<std::string> orders;  // of reduction, as "((0+1)+2)", each once

  bool holds() const { return counterexample.empty(); }
};

// Builds the schedules of all ranks for `like` (its rank, send_counts and recv_counts are set for
// each rank) and proves them. Raises InvalidArgumentError where build does.
Proof verify(const PlanRequest& like, const VerifyOptions& options = {});
// Proves schedules that were built, or broken, elsewhere.
Proof verify(const PlanRequest& like, const VerifyOptions& options,
             std::span<const Schedule> schedules);

std::vector<Schedule> build_all(const PlanRequest& like, const VerifyOptions& options = {});

}  // namespace fastgpu
