// Channels over a stream of bytes: a stream carries one lane in one direction. Header and payload
// leave in one vectored write. A payload that is stored, not reduced, is read directly into its
// target.
//
// Ownership: the channel owns its stream. The poller watches the stream while the channel exists,
// and must exist longer than the channel.
#pragma once

#include <cstdint>
#include <memory>

#include "transport/channel.h"
#include "transport/socket/stream.h"
#include "transport/wait/poller.h"

namespace fastgpu {

// No frame is larger. A receiver that reads a larger size logs it and closes the channel.
inline constexpr uint64_t kMaxTcpFrameBytes = (uint64_t{1} << 30) + (1 << 20);

std::unique_ptr<SendChannel> make_tcp_sender(std::unique_ptr<Stream> stream, Poller& poller);
std::unique_ptr<RecvChannel> make_tcp_receiver(std::unique_ptr<Stream> stream, Poller& poller);

}  // namespace fastgpu
