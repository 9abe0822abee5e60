// A channel inside one process, for tests and simulated worlds: a bounded queue of frames in
// memory. With capacity 0 it is a rendezvous: the receiver copies out of the sender's memory.
// Ownership: the two ends share the queue. Threading: channel.h; the ends may be on two threads.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "transport/channel.h"

namespace fastgpu {

using ChannelPair = std::pair<std::unique_ptr<SendChannel>, std::unique_ptr<RecvChannel>>;

// The queue holds `capacity` frames. One call moves at most `piece_bytes`, so that tests see frames
// arrive in pieces.
ChannelPair make_memory_channel(std::size_t capacity, std::size_t piece_bytes = SIZE_MAX);

}  // namespace fastgpu
