#include "engine/device/host_driven/channels.h"

#include <string>

namespace fastgpu {
namespace {

constexpr TimeNs kPollNs = 20'000;  // nothing rings when a device has done its work

}  // namespace

DeviceChannels::DeviceChannels(const DeviceChannelParts& parts, std::shared_ptr<FailureLatch> latch)
    : group_{.runtime = parts.runtime,
             .executor = parts.executor,
             .heap = parts.heap,
             .peers = parts.peers,
             .host_channels = parts.host_channels,
             .latch = *latch,
             .chunk_bytes = parts.chunk_bytes},
      latch_(std::move(latch)) {
  if (parts.chunk_bytes == 0 || parts.chunk_bytes % 16 != 0 ||
      parts.chunk_bytes > kMostChunkBytes) {
    raise(ErrorKind::kInvalidArgument, "a chunk has a multiple of 16 bytes, at most " +
                                           std::to_string(kMostChunkBytes) + ", not " +
                                           std::to_string(parts.chunk_bytes));
  }
}

template <typename Channel>
Channel* DeviceChannels::find(ByRoute<Channel>& channels, int peer, int lane) {
  std::unique_ptr<Channel>& channel = channels[{peer, lane}];
  if (channel == nullptr) channel = std::make_unique<Channel>(Route{group_, peer, lane});
  return channel.get();
}

SendChannel* DeviceChannels::sender(int peer, int lane) { return find(senders_, peer, lane); }

RecvChannel* DeviceChannels::receiver(int peer, int lane) { return find(receivers_, peer, lane); }

bool DeviceChannels::poll() noexcept {
  if (latch_->failure() != nullptr) {
    drop();
    release_kept();
    return false;
  }
  Failure failure;
  try {
    bool moved = pump(senders_);
    moved |= pump(receivers_);
    group_.executor.run_due();
    return moved;
  } catch (const CommError& error) {
    failure = error.failure();
  } catch (const std::exception& error) {
    failure.message =
        std::string("the channels of a device met an unexpected error: ") + error.what();
  }
  latch_->report(std::move(failure));
  return true;
}

template <typename Channel>
bool DeviceChannels::pump(ByRoute<Channel>& channels) {
  bool moved = false;
  for (const auto& [route, channel] : channels) {
    const int peer = route.first;
    const Io io = channel->pump();
    moved |= io == Io::kMoved;
    if (io == Io::kClosed && departed(peer)) {
      raise(make_failure(ErrorKind::kPeerLost,
                         "rank " + std::to_string(peer) +
                             " closed its connection while work on device memory of both ranks "
                             "was pending",
                         peer));
    }
  }
  return moved;
}

// Stops all copies from payloads, because the callers may free the payloads from now on.
void DeviceChannels::drop() noexcept {
  for (const auto& [route, channel] : senders_) channel->hang_up();
  for (const auto& [route, channel] : receivers_) channel->hang_up();
  group_.pending.store(0);
}

// Goes on releasing memory: work that was enqueued before the failure still runs, and ends.
void DeviceChannels::release_kept() noexcept {
  try {
    if (!device_failed_.load()) group_.executor.run_due();
  } catch (const std::exception&) {  // the latch has the first failure
    device_failed_.store(true);
  }
}

TimeNs DeviceChannels::next_deadline() const noexcept {
  return busy() ? now_ns() + kPollNs : kNever;
}

}  // namespace fastgpu
