#include "comm/group_device.h"

#include <chrono>
#include <new>
#include <string>
#include <thread>

#include "comm/runtime.h"

namespace fastgpu {
namespace {

constexpr TimeNs kFramesLimit = 2 * kSecond;

}  // namespace

// Raises unless the group can use the stream's GPU. The caller holds the lock.
void GroupDevice::require_device(StreamHandle stream) {
  DeviceRuntime& devices = parts_.runtime.devices();
  if (stream.device < 0 || stream.device >= devices.device_count()) {
    raise(ErrorKind::kInvalidArgument,
          "there is no GPU " + std::to_string(stream.device) + "; this process has " +
              std::to_string(devices.device_count()) + ", counted from 0");
  }
  if (device_.value_or(stream.device) != stream.device) {
    raise(ErrorKind::kInvalidArgument, "the group uses GPU " + std::to_string(*device_) +
                                           " on this rank, and a tensor is on GPU " +
                                           std::to_string(stream.device) +
                                           "; move the tensor, or make another group for that GPU");
  }
}

bool GroupDevice::is_captured(StreamHandle stream) const {
  return parts_.runtime.devices().is_captured(stream);
}

DeviceCollectives& GroupDevice::collectives(StreamHandle stream, Communicator& communicator) {
  std::shared_ptr<DeviceCollectives> made;
  std::string why_not;
  try {
    const std::lock_guard lock(mutex_);
    made = collectives_;
    require_device(stream);
    if ((made == nullptr || !made->is_set_up()) && is_captured(stream)) {
      raise(ErrorKind::kInvalidArgument,
            "a group's first collective on tensors of GPUs sets it up, and cannot be captured in a "
            "graph; make one call before the capture");
    }
    if (made == nullptr) {
      made = collectives_ = DeviceCollectives::create(parts_, stream.device);
      queue_.store(&made->queue(), std::memory_order_release);
      device_ = stream.device;
    }
  } catch (const CommError& error) {
    if (made != nullptr && made->is_set_up()) throw;
    why_not = error.what();
  } catch (const std::bad_alloc&) {
    if (made != nullptr && made->is_set_up()) throw;
    why_not = "out of memory";
  }
  if (!why_not.empty()) MappedPeers::decline(communicator, parts_.topology, why_not);
  made->set_up(communicator);
  return *made;  // collectives_ keeps it
}

StagedMessages& GroupDevice::messages(StreamHandle stream) {
  const std::lock_guard lock(mutex_);
  require_device(stream);
  if (is_captured(stream)) {  // the host carries messages, and takes no part in a replay
    raise(ErrorKind::kInvalidArgument,
          "send and recv cannot be captured in a graph; make the call outside of the capture");
  }
  if (messages_ == nullptr) {
    messages_ =
        std::make_shared<StagedMessages>(parts_.runtime.devices(), stream.device,
                                         parts_.runtime.pinned_memory(), parts_.latch, post_);
    parts_.runtime.engine().add(messages_);
    device_ = stream.device;
  }
  return *messages_;
}

std::shared_ptr<DeviceCollectives> GroupDevice::made_collectives() const {
  const std::lock_guard lock(mutex_);
  return collectives_;
}

bool GroupDevice::busy() const {
  const std::lock_guard lock(mutex_);
  return (collectives_ != nullptr && collectives_->busy()) ||
         (messages_ != nullptr && messages_->sending());
}

void GroupDevice::add_to(Counters& counters) const {
  const auto made = made_collectives();
  if (made == nullptr) return;
  const CollectiveQueue& queue = made->queue();
  counters.operations += queue.sequence();
  counters.bytes_sent += queue.sent_bytes();
  counters.bytes_received += queue.received_bytes();
  counters.busy_ns += queue.busy_ns();
}

void GroupDevice::drain() {
  const auto made = made_collectives();
  const TimeNs deadline = now_ns() + kFramesLimit;
  while (made != nullptr && made->has_pending_frames() && !made->busy() && now_ns() < deadline) {
    parts_.runtime.engine().submit(Submission::kLarge);
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void GroupDevice::leave() {
  if (const auto made = made_collectives()) made->leave();
  const std::lock_guard lock(mutex_);
  if (messages_ == nullptr) return;
  parts_.runtime.engine().remove(messages_.get());
  messages_->finish();
}

}  // namespace fastgpu
