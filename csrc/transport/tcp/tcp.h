// Channels over TCP: one connected, non-blocking socket a channel, header and payload in one
// vectored write, payloads read straight into their target when they are stored. Ownership: the
// channel owns its socket. The poller watches it while the channel lives, and outlives it.
#pragma once

#include <cstdint>
#include <memory>

#include "base/unique_fd.h"
#include "transport/channel.h"
#include "transport/wait/poller.h"

namespace fastgpu {

// A header that announces more is not one of ours: the channel says so in the log and closes.
inline constexpr uint64_t kMaxTcpFrameBytes = (uint64_t{1} << 30) + (1 << 20);

std::unique_ptr<SendChannel> make_tcp_sender(UniqueFd socket, Poller& poller);
std::unique_ptr<RecvChannel> make_tcp_receiver(UniqueFd socket, Poller& poller);

}  // namespace fastgpu
