#include "comm/device_side.h"

#include <string>

#include "engine/collective_queue.h"

namespace fastgpu {

DeviceMember& DeviceSide::member(int device) {
  const std::lock_guard lock(mutex_);
  if (member_ == nullptr) member_ = std::make_unique<DeviceMember>(parts_, device);
  if (member_->device() == device) return *member_;
  raise(ErrorKind::kInvalidArgument, "the group uses GPU " + std::to_string(member_->device()) +
                                         " on this rank, and a tensor is on GPU " +
                                         std::to_string(device) +
                                         "; move the tensor, or make another group for that GPU");
}

// Peers are waited for by the host, which takes no part in a graph's replay.
void DeviceSide::refuse_capture(StreamHandle stream) const {
  if (!parts_.runtime.devices().is_captured(stream)) return;
  raise(ErrorKind::kInvalidArgument,
        "calls on tensors of GPUs cannot be captured in a graph; make the call outside of the "
        "capture");
}

DeviceMember& DeviceSide::member_for_message(StreamHandle stream) {
  refuse_capture(stream);
  return member(stream.device);
}

DeviceMember& DeviceSide::member_for_collective(StreamHandle stream, Communicator& communicator) {
  std::string why_not;
  try {
    refuse_capture(stream);
    DeviceMember& made = member(stream.device);
    made.set_up(communicator);
    return made;
  } catch (const CommError& error) {
    if (is_made()) throw;
    why_not = error.what();
  }
  MappedPeers::decline(communicator, parts_.topology, why_not);
}

bool DeviceSide::is_made() const {
  const std::lock_guard lock(mutex_);
  return member_ != nullptr;
}

bool DeviceSide::busy() const {
  const std::lock_guard lock(mutex_);
  return member_ != nullptr && member_->busy();
}

void DeviceSide::add_to(Counters& counters) const {
  const std::lock_guard lock(mutex_);
  if (member_ == nullptr) return;
  const CollectiveQueue& queue = member_->collectives();
  counters.operations += queue.sequence();
  counters.bytes_sent += queue.sent_bytes();
  counters.bytes_received += queue.received_bytes();
  counters.busy_ns += queue.busy_ns();
}

void DeviceSide::settle() {
  if (is_made()) member_->settle();
}

void DeviceSide::leave() {
  if (is_made()) member_->leave();
}

}  // namespace fastgpu
