// The state of one end of a pair of rings, shared by its sender and its receiver.
// Threading: one thread at a time, as the channels of a lane.
#pragma once

#include "transport/shm/buffer_credits.h"
#include "transport/shm/reply_slots.h"

namespace fastgpu {

struct ShmEnd {
  BufferCredits credits;
  ReplySlots replies;
};

}  // namespace fastgpu
