// The DeviceMember of a communicator, which its first call for a GPU makes.
// Ownership: the communicator's. Thread safety: all calls, any thread.
#pragma once

#include <memory>
#include <mutex>

#include "comm/communicator.h"
#include "comm/device_member.h"

namespace fastgpu {

class DeviceSide {
 public:
  explicit DeviceSide(DeviceMember::Parts parts) : parts_(std::move(parts)) {}

  // Raises InvalidArgumentError if the communicator uses another GPU, or this one cannot be used.
  DeviceMember& member(int device);
  // The same for a call behind work of a stream. Raises also if the stream is being captured.
  DeviceMember& member_for_message(StreamHandle stream);
  // The same for collectives, which every rank calls. If this is the first one, the ranks tell each
  // other what they can use. A rank that cannot use its GPU says why, so that the others need not
  // wait for it; then all raise.
  DeviceMember& member_for_collective(StreamHandle stream, Communicator& communicator);

  bool busy() const;
  void add_to(Counters& counters) const;
  // See DeviceMember.
  void settle();
  void leave();

 private:
  bool is_made() const;
  void refuse_capture(StreamHandle stream) const;

  const DeviceMember::Parts parts_;
  mutable std::mutex mutex_;  // guards member_
  std::unique_ptr<DeviceMember> member_;
};

}  // namespace fastgpu
