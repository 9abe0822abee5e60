#include "control/peer_link.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "transport/shm/shm.h"

namespace fastgpu {
namespace {

// So that a peer that sends without pause does not hold up the other links.
constexpr int kMessagesATime = 64;
// A process numbers its segments from 0, so no honest peer comes near this.
constexpr uint32_t kMaxSegments = 4096;

int lane_of(const ControlMessage& message) {
  constexpr auto kMost = static_cast<uint32_t>(std::numeric_limits<int>::max());
  return static_cast<int>(std::min(message.number, kMost));
}

}  // namespace

PeerLink::PeerLink(const Key& key, Registry& registry, ChannelBroker& broker,
                   ChannelBroker::ShareSegment share)
    : key_(key), registry_(registry), broker_(broker), share_(std::move(share)) {
  peer_.pair = key.pair;
}

void PeerLink::say_hello(bool is_unix) {
  ControlMessage hello = message_of(ControlKind::kHello);
  if (is_unix) hello.descriptors = broker_.own_doorbell();
  send(std::move(hello));
}

void PeerLink::connect(UniqueFd socket, bool is_unix) {
  if (is_unix) {
    link_.connect(std::move(socket));
  } else {
    link_.connect(make_tcp_stream(std::move(socket)));
  }
  peer_.process = link_.peer_process();
  try_flush();
}

void PeerLink::accept(Link link, ControlMessage hello) {
  link_ = std::move(link);
  peer_.process = link_.peer_process();
  ControlMessage welcome = message_of(ControlKind::kWelcome);
  if (link_.is_unix()) {
    take_doorbell(hello);
    peer_.segments = std::make_shared<PeerSegments>();
    welcome.descriptors = broker_.own_doorbell();
  }
  try {
    send(std::move(welcome));
  } catch (const OutOfResourcesError&) {
    throw;
  } catch (const CommError& error) {  // the peer has ended, but what it sent still counts
    log(LogLevel::kInfo, "link_broke", "reason=" + in_quotes(error.what()));
  }
}

void PeerLink::open_ring(int lane) {
  UniqueFd ring = create_shm_ring(ShmRingConfig{});
  ControlMessage message = message_of(ControlKind::kRing, static_cast<uint32_t>(lane));
  message.descriptors.push_back(duplicate(ring.get(), "a shared-memory ring"));
  registry_.count_opened(key_.pair);
  send(std::move(message));
  if (peer_.doorbell) {
    make_sender(lane, std::move(ring));
  } else {
    waiting_rings_.emplace_back(lane, std::move(ring));
  }
}

void PeerLink::send_segment(uint32_t segment) {
  ControlMessage message = message_of(ControlKind::kSegment, segment);
  message.descriptors.push_back(broker_.segment(segment));
  send(std::move(message));
}

void PeerLink::send_failure(const Failure& failure) {
  ControlMessage message = message_of(ControlKind::kFail);
  message.failure = failure;
  send(std::move(message));
}

void PeerLink::send_leave(const std::string& why) {
  is_leaving_ = true;
  ControlMessage message = message_of(ControlKind::kLeave, registry_.opened(key_.pair));
  message.failure.message = why;
  send(std::move(message));
}

ControlMessage PeerLink::message_of(ControlKind kind, uint32_t number) const {
  ControlMessage message;
  message.kind = kind;
  message.communicator = key_.pair.member.communicator;
  message.from = key_.pair.member.rank;
  message.to = key_.pair.peer;
  message.number = number;
  return message;
}

void PeerLink::send(ControlMessage message) { link_.send(std::move(message)); }

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

PeerLink::State PeerLink::on_event() {
  const bool can_send = try_flush();
  if (is_leaving_) return can_send && !link_.all_sent() ? State::kOpen : State::kEnded;
  return read_messages(can_send);
}

PeerLink::State PeerLink::read_messages(bool can_send) {
  for (int i = 0; i < kMessagesATime; ++i) {
    ControlMessage message;
    const Received received = link_.receive(message);
    if (received == Received::kNothing) return can_send ? State::kOpen : State::kEnded;
    if (received == Received::kClosed) return State::kEnded;
    handle(std::move(message));
  }
  return State::kMore;
}

void PeerLink::handle(ControlMessage message) {
  switch (message.kind) {
    case ControlKind::kWelcome:
      return handle_welcome(std::move(message));
    case ControlKind::kRing:
      return handle_ring(std::move(message));
    case ControlKind::kSegment:
      return handle_segment(std::move(message));
    case ControlKind::kLeave:
      return registry_.leave(key_.pair, message.number, message.failure.message);
    case ControlKind::kFail:
      return handle_fail(std::move(message));
    case ControlKind::kHello:
    case ControlKind::kStream:
    case ControlKind::kProbe:
      break;
  }
  raise_violation("a message of kind " + std::to_string(static_cast<int>(message.kind)) +
                  " came on an open link");
}

void PeerLink::take_doorbell(ControlMessage& message) {
  if (message.descriptors.size() != 2) {
    raise_violation("a hello or welcome came without the two descriptors of a doorbell");
  }
  peer_.doorbell = broker_.doorbell_of(peer_.process, std::move(message.descriptors[0]),
                                       std::move(message.descriptors[1]));
}

void PeerLink::handle_fail(ControlMessage message) {
  Failure failure = std::move(message.failure);
  const bool is_refusal = message.from == kNoRank;
  if (is_refusal) {
    failure.peer = key_.pair.peer;
    failure.message = "rank " + std::to_string(failure.peer) + " " + failure.message;
  }
  registry_.fail(key_.pair, std::move(failure));
}

void PeerLink::handle_welcome(ControlMessage message) {
  if (!key_.is_dialled || is_welcome_) raise_violation("a welcome answers no hello");
  is_welcome_ = true;
  if (!link_.is_unix()) return;
  take_doorbell(message);
  for (auto& [lane, ring] : waiting_rings_) make_sender(lane, std::move(ring));
  waiting_rings_.clear();
}

void PeerLink::handle_ring(ControlMessage message) {
  if (key_.is_dialled || !link_.is_unix() || message.descriptors.size() != 1) {
    raise_violation("a ring came without its descriptor, or from the acceptor of the link");
  }
  const int lane = lane_of(message);
  registry_.channel_arrived(key_.pair, lane,
                            broker_.ring_receiver(peer_, lane, std::move(message.descriptors[0])));
}

void PeerLink::handle_segment(ControlMessage message) {
  if (key_.is_dialled || !link_.is_unix() || message.descriptors.size() != 1 ||
      message.number >= kMaxSegments) {
    raise_violation("segment " + std::to_string(message.number) +
                    " of symmetric memory came without its descriptor, from the acceptor of the "
                    "link, or with too large a number");
  }
  peer_.segments->add(message.number, std::move(message.descriptors[0]));
  broker_.wake_engine();
}

void PeerLink::make_sender(int lane, UniqueFd ring) {
  registry_.channel_opened(key_.pair, lane,
                           broker_.ring_sender(peer_, lane, std::move(ring), share_));
}

}  // namespace fastgpu
