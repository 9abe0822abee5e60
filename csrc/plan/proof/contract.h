// Contract: the specification of a collective, in symbols: the memory of a rank at the start, and
// the data that it must have at the end.
//
// Ownership: borrows the request and the counts. Threading: pure functions, any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/build.h"
#include "plan/proof/symbolic_run.h"

namespace fastgpu {

struct Contract {
  const PlanRequest& request;            // of all ranks: its rank and its counts are not used
  std::span<const uint64_t> all_counts;  // as in VerifyOptions

  uint64_t part_bytes() const { return request.count * request.element_size; }
  bool is_barrier() const;                      // no rank may end before every rank has begun
  uint64_t sent_bytes(int from, int to) const;  // all_to_all
  uint64_t input_bytes(int rank) const;         // 0: the rank has no input
  uint64_t data_bytes(int rank) const;
  // The buffers at the start, with the contribution of `rank` in them. `in_place`: input and data
  // are the same memory.
  RankMemory initial_memory(int rank, uint64_t scratch_bytes, bool in_place) const;
  // The required data at the end. The term of a piece is a single rank, or kAllRanks for a sum over
  // all ranks in any order.
  std::vector<Piece> expected_data(int rank) const;
};

inline constexpr int kAllRanks = -1;

}  // namespace fastgpu
