#include "control/peer_link.h"

#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace fastgpu {
namespace {

// So that a peer that sends without pause does not hold up the other links.
constexpr int kMessagesATime = 64;

}  // namespace

PeerLink::PeerLink(LinkKey key, std::string name, Registry& registry, Poller& engine,
                   const SymmetricHeap& heap, ShmPeer::ShareSegment share)
    : key_(std::move(key)),
      name_(std::move(name)),
      registry_(registry),
      shm_(registry, engine, heap, std::move(share)) {}

void PeerLink::connect(UniqueFd socket) {
  ControlMessage hello = greeting(ControlKind::kHello);
  link_ = Link(std::move(socket), key_.is_unix);
  link_.queue(std::move(hello));
  try_flush();
}

bool PeerLink::accept(Link link, ControlMessage hello) {
  if (state_ == State::kOpen) return false;
  if (state_ == State::kDialling && name_ < key_.process) {
    spare_ = std::move(link);
    return false;
  }
  ControlMessage welcome;
  try {
    welcome = greeting(ControlKind::kWelcome);
    take_doorbell(hello);
  } catch (const OutOfResourcesError& error) {
    refuse(std::move(link), error.failure());
    throw;
  }
  watch_.reset();
  link_ = std::move(link);
  link_.queue(std::move(welcome));
  open();
  return true;
}

void PeerLink::open_to_self(HandBack hand_back) {
  hand_back_ = std::move(hand_back);
  ControlMessage own = greeting(ControlKind::kHello);
  take_doorbell(own);
  open();
}

void PeerLink::close() {
  watch_.reset();
  link_ = Link();
  spare_ = Link();
  shm_.disconnect();
  waiting_.clear();
  sent_segments_.clear();
  state_ = State::kIdle;
}

ControlMessage PeerLink::greeting(ControlKind kind) const {
  ControlMessage message;
  message.kind = kind;
  message.failure.message = name_;
  if (key_.is_unix) message.descriptors = shm_.own_doorbell();
  return message;
}

void PeerLink::take_doorbell(ControlMessage& message) {
  if (key_.is_unix) shm_.take_doorbell(message);
}

void PeerLink::open() {
  state_ = State::kOpen;
  spare_ = Link();
  for (; !waiting_.empty(); waiting_.pop_front()) send(std::move(waiting_.front()));
  try_flush();
  shm_.make_senders();
}

void PeerLink::open_ring(const PairKey& pair, int lane) {
  UniqueFd memory = create_shm_ring(ShmRingConfig{});
  ControlMessage message = message_to(pair, ControlKind::kRing, static_cast<uint32_t>(lane));
  message.descriptors.push_back(duplicate(memory.get(), "a shared-memory ring"));
  registry_.count_opened(pair);
  send(std::move(message));
  shm_.add_ring(pair, lane, std::move(memory));
  if (state_ == State::kOpen) shm_.make_senders();
}

void PeerLink::send_segment(uint32_t segment) {
  if (state_ == State::kIdle || sent_segments_.contains(segment)) return;
  ControlMessage message;
  message.kind = ControlKind::kSegment;
  message.number = segment;
  message.descriptors.push_back(shm_.segment(segment));
  sent_segments_.insert(segment);
  send(std::move(message));
}

void PeerLink::send_device_segment(const PairKey& pair, uint32_t segment, uint64_t size_bytes,
                                   UniqueFd descriptor) {
  ControlMessage message = message_to(pair, ControlKind::kDeviceSegment, segment);
  message.size_bytes = size_bytes;
  message.descriptors.push_back(std::move(descriptor));
  send(std::move(message));
}

void PeerLink::confirm_device_segment(const PairKey& pair, uint32_t segment) {
  send(message_to(pair, ControlKind::kDeviceSegmentMapped, segment));
}

void PeerLink::send_failure(const PairKey& pair, const Failure& failure) {
  ControlMessage message = message_to(pair, ControlKind::kFail);
  message.failure = failure;
  send(std::move(message));
}

void PeerLink::send_leave(const PairKey& pair, const std::string& why) {
  ControlMessage message = message_to(pair, ControlKind::kLeave, registry_.opened(pair));
  message.failure.message = why;
  send(std::move(message));
}

void PeerLink::send(ControlMessage message) {
  if (state_ == State::kIdle) return;  // the peer has ended
  if (state_ == State::kDialling) return waiting_.push_back(std::move(message));
  if (hand_back_) return hand_back_(std::move(message));
  link_.queue(std::move(message));
  try_flush();
}

// A broken connection is no error here: the peer may have said why it ended, so everything that it
// sent must be read first.
bool PeerLink::try_flush() {
  try {
    link_.flush();
    return true;
  } catch (const OutOfResourcesError&) {
    throw;
  } catch (const CommError& error) {
    log(LogLevel::kInfo, "link_broke", "reason=" + in_quotes(error.what()));
    return false;
  }
}

PeerLink::Next PeerLink::on_event() {
  const bool can_send = try_flush();
  for (int i = 0; i < kMessagesATime; ++i) {
    ControlMessage message;
    const Received received = link_.receive(message);
    if (received == Received::kNothing) return can_send ? Next::kWait : Next::kEnd;
    if (received == Received::kClosed) return Next::kEnd;
    handle(std::move(message));
  }
  return Next::kMore;
}

void PeerLink::handle(ControlMessage message) {
  const bool is_open = state_ == State::kOpen;
  switch (message.kind) {
    case ControlKind::kWelcome:
      if (!is_open) return handle_welcome(std::move(message));
      break;
    case ControlKind::kSegment:
      if (is_open) return shm_.take_segment(message);
      break;
    case ControlKind::kFail:
      if (!is_open) return handle_refusal(message.failure);
      return handle_member(std::move(message));
    case ControlKind::kRing:
    case ControlKind::kLeave:
    case ControlKind::kDeviceSegment:
    case ControlKind::kDeviceSegmentMapped:
      if (is_open) return handle_member(std::move(message));
      break;
    case ControlKind::kHello:
    case ControlKind::kStream:
    case ControlKind::kProbe:
      break;
  }
  raise_violation("a message of kind " + std::to_string(static_cast<int>(message.kind)) + " came " +
                  (is_open ? "on an open link" : "in place of a welcome"));
}

void PeerLink::handle_welcome(ControlMessage message) {
  if (message.failure.message != key_.process) {
    raise_violation("the process " + message.failure.message + " answers in place of " +
                    key_.process);
  }
  take_doorbell(message);
  open();
}

void PeerLink::handle_refusal(const Failure& failure) {
  for (const PairKey& pair : registry_.peers_behind(key_)) {
    Failure refusal = failure;
    refusal.peer = pair.peer;
    refusal.message = "rank " + std::to_string(pair.peer) + " " + failure.message;
    registry_.fail(pair, std::move(refusal));
  }
}

void PeerLink::handle_member(ControlMessage message) {
  const PairKey pair = message.pair();
  switch (registry_.state(pair.member)) {
    case Registry::State::kExpected:
      return hold(std::move(message));
    case Registry::State::kUnknown:  // it has ended here
      if (message.kind == ControlKind::kRing) send_leave(pair, "");
      return;
    case Registry::State::kAttached:
      break;
  }
  registry_.check_peer(pair, key_);
  if (message.kind == ControlKind::kRing) {
    return shm_.take_ring(message, hand_back_ ? ::getpid() : link_.peer_process());
  }
  if (message.kind == ControlKind::kDeviceSegment) {
    return registry_.device_segment_arrived(pair, std::move(message));
  }
  if (message.kind == ControlKind::kDeviceSegmentMapped) {
    return registry_.device_segment_mapped(pair, message.number);
  }
  if (message.kind == ControlKind::kFail) return registry_.fail(pair, std::move(message.failure));
  registry_.leave(pair, message.number, message.failure.message);
}

void PeerLink::hold(ControlMessage message) {
  if (held_.size() == kMostHeld) {
    raise(ErrorKind::kPeerLost,
          "it sent more than " + std::to_string(kMostHeld) +
              " messages for groups that this process has not made yet; make the groups in the "
              "same order on every rank");
  }
  held_.push_back(std::move(message));
}

void PeerLink::resume(const MemberKey& key) {
  const auto first = std::stable_partition(
      held_.begin(), held_.end(),
      [&](const ControlMessage& message) { return message.receiver() != key; });
  std::vector<ControlMessage> messages(std::make_move_iterator(first),
                                       std::make_move_iterator(held_.end()));
  held_.erase(first, held_.end());
  for (ControlMessage& message : messages) handle_member(std::move(message));
}

}  // namespace fastgpu
