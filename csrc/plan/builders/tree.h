// Tree algorithms: chunks flow up and down a pair of binary trees, odd lanes on the second tree.
// Ownership: values. Thread safety: pure functions.
#pragma once

#include <array>

#include "plan/builders/lane_context.h"

namespace fastgpu {

// A rank's place in one of the two trees; kNoRank (-1) where there is none.
struct TreePlace {
  int parent = -1;
  std::array<int, 2> children{-1, -1};
};

// Tree `which` (0 or 1) over ranks 0 .. size - 1. No rank has children in both.
TreePlace place_in_tree(int rank, int size, int which);
int top_of_tree(int size, int which);  // the rank without a parent

void tree_all_reduce(LaneContext& context);
void tree_broadcast(LaneContext& context);
void tree_reduce(LaneContext& context);

}  // namespace fastgpu
