// Which consecutive steps of a lane make one sum, so that an executor can do them at once:
//
//   copy(data[2] -> scratch)           set aside
//   recv(0 -> data[2])                 continued
//   recv_reduce(1 -> data[2])          continued
//   copy_reduce(scratch -> data[2])    continued
//   recv_reduce(3 -> data[2])
//
// Threading: pure functions, any thread.
#pragma once

#include <cstddef>

#include "plan/schedule.h"

namespace fastgpu {

// Whether the next step reduces into exactly the target of the step at `index`.
bool is_continued(const Lane& lane, std::size_t index);

// Whether the step at `index` copies a region to scratch only for a sum: the next steps make the
// sum in that region, one of them adds the copy, and no other step of the lane reads the copy.
bool is_set_aside(const Lane& lane, std::size_t index);

// Removes the copies that are set aside, and the steps that add them. A GPU makes no such copies.
// The schedule then has the steps that cost time on a GPU.
void leave_out_set_aside(Schedule& schedule);

}  // namespace fastgpu
