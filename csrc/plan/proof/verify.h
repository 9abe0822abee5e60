// verify(): proves that the schedules of all ranks do what their collective must do. It runs all
// ranks on symbolic values (symbolic.h) instead of numbers.
//
// Proven for every order in which ranks may be polled:
//   - Every result byte holds the right contributions, each exactly once. For all_reduce, the order
//     of reduction is the same on every rank. No rank leaves a barrier before every rank has
//     entered it.
//   - There is no deadlock, even if a send leaves only when its receiver waits for it (capacity 0).
//     There is no unmatched send. Frames agree in size and ordinal.
//   - No step writes a region that has a pending send. No step reads bytes that were never written.
//     The input does not change. Regions are whole elements inside their buffers. No lane touches a
//     region that another lane writes.
//   - Handshake: ranks that exchange frames one way in a lane also do so the other way.
// Reduce and all_gather are proven twice, the second time with input and data in the same memory.
//
// Ownership: values. Threading: pure functions, any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan/build.h"

namespace fastgpu {

struct VerifyOptions {
  int capacity = 0;   // frames that a channel holds; 0: a frame leaves when its receiver waits
  uint64_t seed = 1;  // of the poll order
  // all_to_all: elements from rank i to rank j at i * world + j; empty: `count` each.
  std::span<const uint64_t> all_counts;
};

struct Proof {
  std::string counterexample;        // empty if the proof holds
  std::vector<uint64_t> bytes_sent;  // by rank, payload only
  std::vector<uint64_t> frames_sent;
  std::vector<uint64_t> steps;
  int rounds = 0;                   // the longest chain of frames that wait for each other
  std::vector<std::string> orders;  // of reduction, as "((0+1)+2)", without duplicates

  bool holds() const { return counterexample.empty(); }
};

// Builds the schedules of all ranks for `request` and proves them. Sets rank, send_counts and
// recv_counts of the request for each rank. Throws InvalidArgumentError if build() does.
Proof verify(const PlanRequest& request, const VerifyOptions& options = {});
// Proves the given schedules, which may differ from those of build().
Proof verify(const PlanRequest& request, const VerifyOptions& options,
             std::span<const Schedule> schedules);

std::vector<Schedule> build_all(const PlanRequest& request, const VerifyOptions& options = {});

}  // namespace fastgpu
