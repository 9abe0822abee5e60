#include "control/shm_peer.h"

#include <string>

namespace fastgpu {
namespace {

// A process numbers its segments from 0, so no honest peer comes near this.
constexpr uint32_t kMaxSegments = 4096;

}  // namespace

std::vector<UniqueFd> ShmPeer::own_doorbell() const {
  std::vector<UniqueFd> descriptors;
  for (const int fd : {engine_.doorbell().page_fd(), engine_.doorbell().event_fd()}) {
    descriptors.push_back(duplicate(fd, "the doorbell"));
  }
  return descriptors;
}

void ShmPeer::take_doorbell(ControlMessage& message) {
  if (message.descriptors.size() != 2) {
    raise_violation("a hello or welcome came without the two descriptors of a doorbell");
  }
  doorbell_ = std::make_shared<Doorbell>(
      Doorbell::attach(std::move(message.descriptors[0]), std::move(message.descriptors[1])));
  segments_ = std::make_shared<PeerSegments>();
}

void ShmPeer::take_segment(ControlMessage& message) {
  if (!segments_ || message.descriptors.size() != 1 || message.number >= kMaxSegments) {
    raise_violation("segment " + std::to_string(message.number) +
                    " of symmetric memory came without its descriptor, or with too large a number");
  }
  segments_->add(message.number, std::move(message.descriptors[0]));
  engine_.wake();  // receivers that wait for the segment look again
}

void ShmPeer::take_ring(ControlMessage& message, pid_t sender) {
  if (!doorbell_ || message.descriptors.size() != 1) {
    raise_violation("a ring came without its descriptor");
  }
  const PairKey pair = message.pair();
  const int lane = message.lane();
  registry_.channel_arrived(pair, lane,
                            make_shm_receiver(std::move(message.descriptors[0]), doorbell_,
                                              end_of(pair, lane), segments_, &heap_, sender));
}

void ShmPeer::add_ring(const PairKey& pair, int lane, UniqueFd ring) {
  waiting_.push_back({pair, lane, std::move(ring)});
}

void ShmPeer::make_senders() {
  for (Ring& ring : std::exchange(waiting_, {})) {
    registry_.channel_opened(ring.pair, ring.lane,
                             make_shm_sender(std::move(ring.memory), doorbell_,
                                             end_of(ring.pair, ring.lane), &heap_, share_));
  }
}

// Made by the first channel of the lane.
std::shared_ptr<ShmEnd> ShmPeer::end_of(const PairKey& pair, int lane) {
  std::weak_ptr<ShmEnd>& known = ends_[{pair, lane}];
  std::shared_ptr<ShmEnd> end = known.lock();
  if (!end) known = end = make_shm_end();
  return end;
}

void ShmPeer::forget(const MemberKey& key) {
  std::erase_if(ends_, [&](const auto& entry) { return entry.first.first.member == key; });
}

void ShmPeer::disconnect() {
  ends_.clear();
  waiting_.clear();
}

}  // namespace fastgpu
