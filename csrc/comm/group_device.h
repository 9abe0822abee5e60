// The GPU of a communicator on this rank: that of its first call on a GPU's tensors, which makes
// the parts here.
// Ownership: the communicator's. Thread safety: all calls, any thread.
#pragma once

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
  // uses another GPU, or the stream is being captured.
  DeviceCollectives& collectives(StreamHandle stream, Communicator& communicator);
  // Raises InvalidArgumentError likewise.
  StagedMessages& messages(StreamHandle stream);

  // Operations and sends that are not done.
  bool busy() const;
  void add_to(Counters& counters) const;
  uint64_t sequence() const;  // collectives called so far
  // Waits until no frame to or from a peer is pending, two seconds at most.
  void drain();
  // Takes the parts out of the engine, and waits for the GPU.
  void leave();

 private:
  void require(StreamHandle stream);
  std::shared_ptr<DeviceCollectives> made_collectives() const;

  const DeviceParts parts_;
  const StagedMessages::Post post_;
  mutable std::mutex mutex_;  // guards what follows; once made, the parts stay
  std::optional<int> device_;
  std::shared_ptr<DeviceCollectives> collectives_;
  std::shared_ptr<StagedMessages> messages_;
};

}  // namespace fastgpu
