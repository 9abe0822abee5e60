// The connector's conversations: what each message on a link means.
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <system_error>

#include "base/log.h"
#include "control/connector.h"
#include "transport/shm/shm.h"
#include "transport/tcp/tcp.h"

namespace fastgpu {
namespace {

ControlMessage message_of(ControlKind kind, const std::pair<uint64_t, int>& from, int to) {
  ControlMessage message;
  message.kind = kind;
  message.communicator = from.first;
  message.from = from.second;
  message.to = to;
  return message;
}

}  // namespace

// Returns false when the entry is gone, or cannot go on yet.
bool Connector::finish_connect(uint64_t id, Entry& entry) {
  const int error = entry.connected ? 0 : dial_result(entry.link.fd());
  if (error == EINPROGRESS) return false;
  if (error != 0) {
    redial(id, error);
    return false;
  }
  entry.connected = true;
  entry.link.flush();
  if (entry.role != Role::kStream) return true;
  if (entry.link.empty()) hand_over_stream(id, entry);
  return false;
}

// The stream has named itself; from here on it is a channel's.
void Connector::hand_over_stream(uint64_t id, Entry& entry) {
  Member* owner = member(entry.communicator, entry.me);
  const int peer = entry.peer;
  const int lane = entry.lane;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, entry.link.fd(), nullptr);
  UniqueFd socket = entry.link.release();
  entries_.erase(id);
  if (owner != nullptr) {
    owner->sink->on_sender(peer, lane, make_tcp_sender(std::move(socket), engine_));
  }
}

// A connect failed: the peer's next endpoint is tried; after the last one the peer is lost.
void Connector::redial(uint64_t id, int error) {
  const Entry failed = std::move(entries_.at(id));
  entries_.erase(id);
  const MemberKey key{failed.communicator, failed.me};
  Member* owner = member(key.first, key.second);
  if (owner == nullptr) return;
  const auto& endpoints = owner->addresses[static_cast<std::size_t>(failed.peer)].endpoints;
  std::string why = "it could not be reached at " + to_string(endpoints[failed.endpoint]) + ": " +
                    std::generic_category().message(error);
  try {
    if (failed.endpoint + 1 < endpoints.size()) {
      if (failed.role == Role::kStream) {
        dial_stream(key, *owner, failed.peer, failed.lane, failed.endpoint + 1);
      } else {
        dial_link(key, *owner, failed.peer);
      }
      return;
    }
  } catch (const CommError& again) {
    why = again.what();
  }
  depart(failed, false, why);
}

UniqueFd Connector::dial_patiently(const std::string& name) {
  constexpr int kTries = 2000;
  for (int i = 0; i < kTries; ++i) {
    UniqueFd socket = dial_unix(name);
    if (socket) return socket;
    ::usleep(1000);  // its queue of connections is full
  }
  raise(ErrorKind::kPeerLost, "the unix socket @" + name + " accepts no connection");
}

bool Connector::read_messages(uint64_t id, Entry& entry) {
  while (entry.role != Role::kParked) {
    ControlMessage message;
    const Received received = entry.link.recv(message);
    if (received == Received::kNothing) return true;
    if (received == Received::kClosed) return false;
    if (!handle(id, entry, std::move(message))) return true;
  }
  return true;
}

// Returns false when the entry is gone.
bool Connector::handle(uint64_t id, Entry& entry, ControlMessage message) {
  switch (message.kind) {
    case ControlKind::kHello:
      if (identify(entry, message)) handle_hello(entry, message);
      return true;
    case ControlKind::kStream:
      if (!identify(entry, message)) return true;
      handle_stream(id, entry, message);
      return false;
    case ControlKind::kProbe:
      answer_probe(entry);
      return true;
    default:
      break;
  }
  if (entry.role != Role::kIncoming && entry.role != Role::kOutgoing) {
    raise(ErrorKind::kPeerLost, "a control message came before a hello");
  }
  Member* owner = member(entry.communicator, entry.me);
  if (owner == nullptr) return true;
  if (message.kind == ControlKind::kWelcome) handle_welcome(entry, message);
  if (message.kind == ControlKind::kRing) handle_ring(entry, message);
  if (message.kind == ControlKind::kLeave) handle_leave(entry, message);
  if (message.kind == ControlKind::kFail) {
    int& suspect = message.failure.peer;
    if (suspect < kNoRank || suspect >= static_cast<int>(owner->addresses.size())) {
      suspect = entry.peer;
    }
    owner->sink->on_failed(entry.peer, message.failure);
  }
  if (message.kind == ControlKind::kSegment && entry.segments && message.descriptors.size() == 1) {
    entry.segments->add(message.number, std::move(message.descriptors[0]));
    engine_.wake();
  }
  return true;
}

// Finds whom an accepted connection is for; parks it while that communicator is not known here.
bool Connector::identify(Entry& entry, ControlMessage& message) {
  if (entry.role != Role::kAccepted && entry.role != Role::kParked) {
    raise(ErrorKind::kPeerLost, "a second hello came on one connection");
  }
  entry.communicator = message.communicator;
  entry.me = message.to;
  entry.peer = message.from;
  Member* owner = member(entry.communicator, entry.me);
  if (owner == nullptr) {
    entry.role = Role::kParked;
    entry.parked = std::move(message);
    return false;
  }
  if (entry.peer < 0 || entry.peer >= static_cast<int>(owner->addresses.size()) ||
      entry.peer == entry.me) {
    raise(ErrorKind::kPeerLost, "a connection names a rank that is not another one of the group");
  }
  return true;
}

void Connector::resume_parked(uint64_t communicator, int rank) {
  std::vector<uint64_t> ids;
  for (const auto& [id, entry] : entries_) {
    if (entry.role == Role::kParked && entry.communicator == communicator && entry.me == rank) {
      ids.push_back(id);
    }
  }
  for (const uint64_t id : ids) {
    Entry& entry = entries_.at(id);
    ControlMessage message = std::move(*entry.parked);
    entry.parked.reset();
    try {
      if (handle(id, entry, std::move(message))) on_event(id, EPOLLIN);
    } catch (const CommError& error) {  // the others are served all the same
      log(LogLevel::kInfo, "link_closed", "reason=" + quoted(error.what()));
      on_closed(id, error.what());
    }
  }
}

void Connector::handle_hello(Entry& entry, ControlMessage& message) {
  PeerState& state = member(entry.communicator, entry.me)->peers[entry.peer];
  if (state.linked) raise(ErrorKind::kPeerLost, "a second connection names the same rank");
  ControlMessage welcome =
      message_of(ControlKind::kWelcome, {entry.communicator, entry.me}, entry.peer);
  if (entry.is_unix) {
    if (message.descriptors.size() != 2) raise(ErrorKind::kPeerLost, "a hello without a doorbell");
    entry.bell = std::make_shared<Doorbell>(
        Doorbell::attach(std::move(message.descriptors[0]), std::move(message.descriptors[1])));
    entry.segments = std::make_shared<PeerSegments>();
    welcome.descriptors = own_bell();
  }
  entry.role = Role::kIncoming;
  state.linked = true;
  try {
    entry.link.send(std::move(welcome));
  } catch (const CommError& error) {  // gone already; what it said behind its hello still counts
    log(LogLevel::kInfo, "link_broke", "reason=" + quoted(error.what()));
  }
}

void Connector::handle_welcome(Entry& entry, ControlMessage& message) {
  if (!entry.is_unix) return;
  if (message.descriptors.size() != 2) raise(ErrorKind::kPeerLost, "a welcome without a doorbell");
  entry.bell = std::make_shared<Doorbell>(
      Doorbell::attach(std::move(message.descriptors[0]), std::move(message.descriptors[1])));
  for (auto& [lane, ring] : entry.waiting_rings) make_sender(entry, lane, std::move(ring));
  entry.waiting_rings.clear();
}

void Connector::handle_ring(Entry& entry, ControlMessage& message) {
  if (message.descriptors.size() != 1) {
    raise(ErrorKind::kPeerLost, "a ring came without its descriptor");
  }
  if (entry.role != Role::kIncoming || !entry.is_unix) {
    raise(ErrorKind::kPeerLost, "a ring came on a link that is not for rings");
  }
  Member* owner = member(entry.communicator, entry.me);
  const int lane = static_cast<int>(message.number);
  owner->sink->on_receiver(
      entry.peer, lane,
      make_shm_receiver(std::move(message.descriptors[0]), entry.bell, end_of(*owner, entry, lane),
                        entry.segments, &heap_, process_behind(entry.link.fd())));
  count_received(entry);
}

void Connector::handle_stream(uint64_t id, Entry& entry, const ControlMessage& message) {
  if (entry.is_unix) raise(ErrorKind::kPeerLost, "a stream came over a unix socket");
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, entry.link.fd(), nullptr);
  UniqueFd socket = entry.link.release();
  const Entry stream = std::move(entry);
  entries_.erase(id);
  Member* owner = member(stream.communicator, stream.me);
  owner->sink->on_receiver(stream.peer, static_cast<int>(message.number),
                           make_tcp_receiver(std::move(socket), engine_));
  count_received(stream);
}

// What the two channels of a lane share, if the same process is behind the links of both. No other
// process may get to read what is written into that one's buffers.
std::shared_ptr<ShmEnd> Connector::end_of(Member& owner, const Entry& entry, int lane) {
  auto& shared = owner.peers[entry.peer].ends[{lane, process_behind(entry.link.fd())}];
  std::shared_ptr<ShmEnd> end = shared.lock();
  if (!end) shared = end = make_shm_end();
  return end;
}

// The peer has left in order once all that it opened has arrived here; its data may still be
// unread.
void Connector::count_received(const Entry& entry) {
  PeerState& state = member(entry.communicator, entry.me)->peers[entry.peer];
  ++state.received;
  if (state.leaves_after && state.received >= *state.leaves_after) depart(entry, true, "");
}

void Connector::handle_leave(Entry& entry, const ControlMessage& message) {
  PeerState& state = member(entry.communicator, entry.me)->peers[entry.peer];
  state.leaves_after = message.number;
  if (state.received >= message.number) depart(entry, true, "");
}

void Connector::answer_probe(Entry& entry) const {
  if (!entry.link.empty()) {
    raise(ErrorKind::kPeerLost, "a connection sends probes and does not read the answers");
  }
  std::random_device random;
  const uint32_t word = random();
  ControlMessage answer;
  answer.kind = ControlKind::kProbe;
  answer.number = word;
  UniqueFd memory(::memfd_create("fastgpu-probe", MFD_CLOEXEC));
  if (::write(memory.get(), &word, sizeof(word)) != static_cast<ssize_t>(sizeof(word))) {
    raise_system(ErrorKind::kPeerLost, "cannot answer a probe", errno);
  }
  answer.descriptors.push_back(std::move(memory));
  entry.link.send(std::move(answer));
}

void Connector::on_closed(uint64_t id, const std::string& why) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  const Entry entry = std::move(found->second);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, entry.link.fd(), nullptr);
  entries_.erase(found);
  const bool link = entry.role == Role::kIncoming || entry.role == Role::kOutgoing;
  Member* owner = link ? member(entry.communicator, entry.me) : nullptr;
  if (owner == nullptr) return;
  PeerState& state = owner->peers[entry.peer];
  if (!state.leaves_after) depart(entry, false, why);
}

void Connector::depart(const Entry& entry, bool in_order, const std::string& why) {
  Member* owner = member(entry.communicator, entry.me);
  if (owner == nullptr) return;
  PeerState& state = owner->peers[entry.peer];
  if (state.departed) return;
  state.departed = true;
  owner->sink->on_departed(entry.peer, in_order, why);
}

void Connector::dial_link(const MemberKey& key, Member& owner, int peer) {
  const PeerAddress& address = owner.addresses[static_cast<std::size_t>(peer)];
  PeerState& state = owner.peers[peer];
  UniqueFd socket = address.shared_memory ? dial_patiently(address.unix_name)
                                          : dial_tcp(address.endpoints.at(state.link_endpoint));
  ControlMessage hello = message_of(ControlKind::kHello, key, peer);
  if (address.shared_memory) hello.descriptors = own_bell();
  state.outgoing = watch({.role = Role::kOutgoing,
                          .link = ControlLink(std::move(socket), address.shared_memory),
                          .is_unix = address.shared_memory,
                          .communicator = key.first,
                          .me = key.second,
                          .peer = peer,
                          .endpoint = state.link_endpoint++,
                          .connected = address.shared_memory});
  entries_.at(state.outgoing).link.send(std::move(hello));
}

void Connector::dial_stream(const MemberKey& key, Member& owner, int peer, int lane,
                            std::size_t endpoint) {
  const PeerAddress& address = owner.addresses[static_cast<std::size_t>(peer)];
  const uint64_t id = watch({.role = Role::kStream,
                             .link = ControlLink(dial_tcp(address.endpoints.at(endpoint)), false),
                             .communicator = key.first,
                             .me = key.second,
                             .peer = peer,
                             .lane = lane,
                             .endpoint = endpoint,
                             .connected = false});
  ControlMessage message = message_of(ControlKind::kStream, key, peer);
  message.number = static_cast<uint32_t>(lane);
  entries_.at(id).link.send(std::move(message));
  on_event(id, EPOLLOUT);
}

void Connector::open_ring(Entry& entry, int lane) {
  UniqueFd ring = create_shm_ring(ShmRingConfig{});
  ControlMessage message =
      message_of(ControlKind::kRing, {entry.communicator, entry.me}, entry.peer);
  message.number = static_cast<uint32_t>(lane);
  message.descriptors.emplace_back(::dup(ring.get()));
  entry.link.send(std::move(message));
  if (entry.bell) {
    make_sender(entry, lane, std::move(ring));
  } else {
    entry.waiting_rings.emplace_back(lane, std::move(ring));
  }
}

void Connector::make_sender(Entry& entry, int lane, UniqueFd ring) {
  Member* owner = member(entry.communicator, entry.me);
  if (owner == nullptr) return;
  const MemberKey key{entry.communicator, entry.me};
  const int peer = entry.peer;
  const auto share = [this, key, peer](uint32_t segment) {
    post([=, this] {
      Member* sharer = member(key.first, key.second);
      const auto found =
          sharer == nullptr ? entries_.end() : entries_.find(sharer->peers[peer].outgoing);
      if (found == entries_.end()) return;
      ControlMessage message = message_of(ControlKind::kSegment, key, peer);
      message.number = segment;
      message.descriptors.push_back(heap_.descriptor(segment));
      found->second.link.send(std::move(message));
    });
  };
  owner->sink->on_sender(
      peer, lane,
      make_shm_sender(std::move(ring), entry.bell, end_of(*owner, entry, lane), &heap_, share));
}

}  // namespace fastgpu
