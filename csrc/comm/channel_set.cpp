#include "comm/channel_set.h"

#include "base/text.h"

namespace fastgpu {
namespace {

// These take the place of channels that were not open when their peer departed.
class ClosedSender : public SendChannel {
 public:
  Io try_send(Outgoing&) override { return Io::kClosed; }
  void hang_up() noexcept override {}
};

class ClosedReceiver : public RecvChannel {
 public:
  Io peek(FrameHeader&) override { return Io::kClosed; }
  Io try_recv(Incoming&) override { return Io::kClosed; }
  void hang_up() noexcept override {}
};

ClosedSender closed_sender;
ClosedReceiver closed_receiver;

}  // namespace

ChannelSet::ChannelSet(Engine& engine, int world, int lanes, Open open, Failed failed,
                       TimeNs reason_limit)
    : engine_(engine),
      lanes_(lanes),
      reason_limit_(reason_limit),
      open_(std::move(open)),
      failed_(std::move(failed)),
      slots_(static_cast<std::size_t>(world) * static_cast<std::size_t>(lanes)),
      closed_since_(static_cast<std::size_t>(world)),
      departures_(static_cast<std::size_t>(world)),
      presences_(static_cast<std::size_t>(world), Presence::kHere) {}

SendChannel* ChannelSet::sender(int peer, int lane) {
  Slot& at = slot(peer, lane);
  SendChannel* channel = at.sender.load(std::memory_order_acquire);
  if (channel == nullptr && !at.opening) {
    at.opening = true;
    open_(peer, lane);
  }
  return channel;
}

RecvChannel* ChannelSet::receiver(int peer, int lane) {
  return slot(peer, lane).receiver.load(std::memory_order_acquire);
}

void ChannelSet::on_sender(int peer, int lane, std::unique_ptr<SendChannel> channel) {
  {
    const std::lock_guard lock(mutex_);
    if (hung_up_ || !departures_[static_cast<std::size_t>(peer)].empty()) channel->hang_up();
    slot(peer, lane).sender.store(channel.get(), std::memory_order_release);
    senders_.push_back(std::move(channel));
  }
  engine_.wake();
}

void ChannelSet::on_receiver(int peer, int lane, std::unique_ptr<RecvChannel> channel) {
  if (lane < 0 || lane >= lanes_) {
    raise(ErrorKind::kPeerLost, "rank " + std::to_string(peer) + " opened lane " +
                                    std::to_string(lane) + ", but this rank has " +
                                    std::to_string(lanes_) + " lanes");
  }
  {
    const std::lock_guard lock(mutex_);
    if (hung_up_ || !departures_[static_cast<std::size_t>(peer)].empty()) channel->hang_up();
    slot(peer, lane).receiver.store(channel.get(), std::memory_order_release);
    receivers_.push_back(std::move(channel));
    version_.fetch_add(1);
  }
  engine_.wake();
}

void ChannelSet::on_departed(int peer, bool in_order, const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    presences_[static_cast<std::size_t>(peer)] = in_order ? Presence::kLeft : Presence::kLost;
    departures_[static_cast<std::size_t>(peer)] =
        in_order ? "has left the group" + (why.empty() ? "" : ": " + printable(why))
                 : "was lost: " + why;
    for (int lane = 0; lane < lanes_; ++lane) {
      Slot& at = slot(peer, lane);
      SendChannel* sender = at.sender.load();
      RecvChannel* receiver = at.receiver.load();
      if (sender == nullptr) at.sender.store(&closed_sender, std::memory_order_release);
      if (receiver == nullptr) at.receiver.store(&closed_receiver, std::memory_order_release);
      if (sender != nullptr) sender->hang_up();
      // A peer that left in order may have sent data that is still on its way. The receiver closes
      // by itself when it reaches the end of the stream.
      if (receiver != nullptr && !in_order) receiver->hang_up();
    }
    version_.fetch_add(1);
  }
  engine_.wake();
}

void ChannelSet::on_failed(int peer, const Failure& failure) {
  Failure reported = failure;
  reported.rank = peer;
  failed_(peer, reported);
}

void ChannelSet::expect_device_segments(DeviceSegments sink) {
  const std::lock_guard lock(mutex_);
  device_segments_ = std::move(sink);
}

ChannelSet::DeviceSegments ChannelSet::device_segments(int peer) const {
  const std::lock_guard lock(mutex_);
  if (!device_segments_.take) {
    raise(ErrorKind::kPeerLost, "rank " + std::to_string(peer) +
                                    " sent news of a GPU's memory, but this rank has used none");
  }
  return device_segments_;
}

void ChannelSet::on_device_segment(int peer, uint32_t segment, uint64_t size_bytes,
                                   UniqueFd descriptor) {
  device_segments(peer).take(peer, segment,
                             {.fd = std::move(descriptor), .size_bytes = size_bytes});
}

void ChannelSet::on_device_segment_mapped(int peer, uint32_t segment) {
  device_segments(peer).note_mapped(peer, segment);
}

bool ChannelSet::departed(int peer) {
  const TimeNs now = now_ns();
  const std::lock_guard lock(mutex_);
  TimeNs& since = closed_since_[static_cast<std::size_t>(peer)];
  if (since == 0) since = now;
  std::string& why = departures_[static_cast<std::size_t>(peer)];
  if (why.empty() && now - since > reason_limit_) {
    why = "closed its connection and gave no reason within " +
          std::to_string(reason_limit_ / kMillisecond) + " ms";
  }
  return !why.empty();
}

Presence ChannelSet::presence(int peer) const {
  const std::lock_guard lock(mutex_);
  return presences_[static_cast<std::size_t>(peer)];
}

std::string ChannelSet::departure(int peer) const {
  if (peer < 0) return "";
  const std::lock_guard lock(mutex_);
  return departures_[static_cast<std::size_t>(peer)];
}

void ChannelSet::hang_up() noexcept {
  const std::lock_guard lock(mutex_);
  hung_up_ = true;
  for (const auto& channel : senders_) channel->hang_up();
  for (const auto& channel : receivers_) channel->hang_up();
}

}  // namespace fastgpu
