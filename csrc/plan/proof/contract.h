// What each collective promises, in symbols: the memory that ranks begin with, and what must lie
// in their data at the end. Threading: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/build.h"
#include "plan/proof/symbolic_run.h"

namespace fastgpu {

// The request of all ranks, with the counts of all_to_all by (from, to).
struct Contract {
  const PlanRequest& like;
  std::span<const uint64_t> all_counts;

  uint64_t part_bytes() const { return like.count * like.element_size; }
  bool reduces() const;
  bool barrier() const;                         // ends nowhere before it began everywhere
  uint64_t sent_bytes(int from, int to) const;  // of all_to_all
  uint64_t input_bytes(int rank) const;         // of the buffer, 0: the rank has none
  uint64_t data_bytes(int rank) const;
  RankMemory begin(int rank, uint64_t scratch_bytes, bool in_place) const;
  // Pieces whose term is the one rank whose input it is, or kEverybody.
  std::vector<Piece> end(int rank) const;
};

inline constexpr int kEverybody = -1;

}  // namespace fastgpu
