// The GPU of a communicator on this rank: that of its first call on a GPU's tensors, which makes
// the parts here.
// Ownership: the communicator's. Thread safety: all calls, any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "comm/communicator.h"
#include "comm/device_collectives.h"
#include "comm/staged_messages.h"

namespace fastgpu {

class GroupDevice {
 public:
  GroupDevice(DeviceParts parts, StagedMessages::Post post)
      : parts_(std::move(parts)), post_(std::move(post)) {}

  // For the first collective the ranks exchange what their GPUs can do; this blocks. If a rank
  // cannot take part, all raise its reason. Also raises InvalidArgumentError if the communicator
  // uses another GPU, or for a first collective in a captured stream.
  DeviceCollectives& collectives(StreamHandle stream, Communicator& communicator);
  // Raises InvalidArgumentError likewise, and for any captured stream.
  StagedMessages& messages(StreamHandle stream);

  // Whether a graph captures the stream.
  bool is_captured(StreamHandle stream) const;

  // Operations and sends that are not done.
  bool busy() const;
  void add_to(Counters& counters) const;
  // Collectives called so far. Every call reads it, so it takes no lock.
  uint64_t sequence() const noexcept {
    const CollectiveQueue* const queue = queue_.load(std::memory_order_acquire);
    return queue == nullptr ? 0 : queue->sequence();
  }
  // Waits until no frame to or from a peer is pending, two seconds at most.
  void drain();
  // Takes the parts out of the engine, and waits for the GPU.
  void leave();

 private:
  void require_device(StreamHandle stream);
  std::shared_ptr<DeviceCollectives> made_collectives() const;

  const DeviceParts parts_;
  const StagedMessages::Post post_;
  mutable std::mutex mutex_;  // guards what follows; once made, the parts stay
  std::optional<int> device_;
  std::shared_ptr<DeviceCollectives> collectives_;
  std::atomic<const CollectiveQueue*> queue_{nullptr};  // of collectives_; written under mutex_
  std::shared_ptr<StagedMessages> messages_;
};

}  // namespace fastgpu
