// How a group's kernels carry out a call: by the small all_reduce, by lanes, or not at all, so that
// the host drives it. Every rank makes the same plan, because all decide by the same shape, options
// and costs.
//
// A call that does not fit the staging memory is carried out in pieces, one kernel after another.
// A piece has the same range of every block of the tensors: see CallBuffers.
//
// A plan of lanes has its tables in memory of the GPU. Plans are kept as long as this: a graph may
// have captured a table's address.
// Ownership: memory and kernels outlive it. Thread safety: all calls, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "comm/calls.h"
#include "comm/lane_memory.h"
#include "comm/options.h"
#include "comm/planner.h"
#include "engine/device/lane_code.h"
#include "plan/cost/choose.h"

namespace fastgpu {

// The costs of kernels on the slowest rank.
struct LaneCosts {
  double latency_us = 0;        // of the smallest all_reduce, one after another
  double enqueue_us = 0;        // for the host to launch a kernel, or to enqueue a copy
  double copy_us_per_byte = 0;  // within the GPU
  double peer_us_per_byte = 0;  // out of a peer's memory
};

// The sizes of a call's tensors on one rank, in bytes, and whether the call reads `data`. A tensor
// consists of blocks of the call's count, one or as many as there are ranks.
struct CallBuffers {
  uint64_t input_bytes = 0;
  uint64_t data_bytes = 0;
  bool reads_data = false;
};
CallBuffers buffers_of(const CallShape& shape, int rank, int world);

// One kernel's part of a call. `_at` are offsets of the buffers in the staging memory, in bytes.
struct LanePiece {
  uint64_t count = 0;  // elements of each block
  unsigned lanes = 0;
  uint64_t input_at = 0;
  uint64_t data_at = 0;
  uint64_t scratch_at = 0;
  std::unique_ptr<LentMemory> entries;  // the device::Table's entries, in memory of the GPU
  std::unique_ptr<LentMemory> first;
};

struct LanePlan {
  Call call;
  const void* kernel = nullptr;  // nullptr: the host drives the call
  bool is_small = false;
  bool divides_later = false;  // an average of integers: the kernels leave the sum
  CallBuffers buffers;
  // For lanes: one entry for all pieces of the full size, then one for a smaller last piece.
  std::vector<LanePiece> pieces;
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
};

class LanePlans {
 public:
  static constexpr std::size_t kMostPlans = 4096;  // later shapes are driven by the host

  LanePlans(int rank, int world, const Options& options, const device::LaneKernels& kernels,
            const LaneCosts& costs, LaneMemory& memory)
      : rank_(rank),
        world_(world),
        options_(options),
        kernels_(kernels),
        costs_(costs),
        memory_(memory) {}

  // `by_host` predicts the cost of the call if the host drives it. A shape's first call blocks
  // until its table is on the GPU.
  const LanePlan& plan(const CollectiveCall& call, Planner& by_host);

 private:
  std::unique_ptr<LanePlan> make(const CollectiveCall& call, Planner& by_host);
  const void* lanes_kernel(const CallShape& shape) const;
  const void* small_kernel(const CallShape& shape) const;
  double small_us_of(uint64_t size_bytes) const;
  std::vector<Schedule> schedules_of(const CallShape& shape, const Choice& choice) const;
  uint64_t staged_bytes(const CallShape& shape, std::span<const Schedule> schedules) const;
  uint64_t piece_count(const CallShape& shape, const Choice& choice) const;
  void fill_lanes(LanePlan& plan, const Choice& choice, const void* kernel);
  LanePiece make_piece(const CallShape& shape, std::span<const Schedule> schedules);

  const int rank_;
  const int world_;
  const Options options_;
  const device::LaneKernels kernels_;
  const LaneCosts costs_;
  LaneMemory& memory_;
  std::mutex mutex_;  // guards plans_
  std::map<CallShape, std::unique_ptr<const LanePlan>> plans_;
};

}  // namespace fastgpu
