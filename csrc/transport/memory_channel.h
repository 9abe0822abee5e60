// A channel inside one process, for tests and simulated worlds: a bounded queue of frames in
// memory. With capacity 0 a frame moves only while the receiver stands at it (a rendezvous).
// Threading: as Channel; both ends may be on different threads.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "transport/channel.h"

namespace fastgpu {

using ChannelPair = std::pair<std::unique_ptr<SendChannel>, std::unique_ptr<RecvChannel>>;

// `capacity` frames may wait between the ends; `piece_bytes` bounds what one call moves, so that
// tests see frames arrive in pieces.
ChannelPair make_memory_channel(std::size_t capacity, std::size_t piece_bytes = SIZE_MAX);

}  // namespace fastgpu
