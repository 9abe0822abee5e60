// Tree algorithms: chunks flow up and down two binary trees. Even lanes use the first tree, odd
// lanes the second.
//
// Threading: pure functions, any thread.
#pragma once

#include <array>

#include "plan/builders/lane_context.h"

namespace fastgpu {

// A rank's parent and children in one of the two trees; -1 for none.
struct TreePlace {
  int parent = -1;
  std::array<int, 2> children{-1, -1};
};

// Tree `which` (0 or 1) over ranks 0 .. size - 1. A rank has children in at most one of the two.
TreePlace place_in_tree(int rank, int size, int which);
int top_of_tree(int size, int which);  // the rank without a parent

void tree_all_reduce(LaneContext& context);
void tree_broadcast(LaneContext& context);
void tree_reduce(LaneContext& context);

}  // namespace fastgpu
