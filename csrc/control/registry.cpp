#include "control/registry.h"

#include <algorithm>
#include <utility>

#include "control/message.h"

namespace fastgpu {
namespace {

std::size_t index_of(int rank) { return static_cast<std::size_t>(rank); }

}  // namespace

void Registry::expect(const MemberKey& key, std::vector<PeerAddress> addresses) {
  members_[key].addresses = std::move(addresses);
}

void Registry::attach(const MemberKey& key, std::shared_ptr<ConnectionSink> sink,
                      std::vector<PeerAddress> addresses) {
  Member& member = members_[key];
  member.sink = std::move(sink);
  member.peers = std::vector<Peer>(addresses.size());
  member.addresses = std::move(addresses);
  if (member.failed_early) member.sink->on_failed(kNoRank, *member.failed_early);
}

Registry::State Registry::state(const MemberKey& key) const {
  const auto found = members_.find(key);
  if (found == members_.end()) return State::kUnknown;
  return found->second.sink == nullptr ? State::kExpected : State::kAttached;
}

// nullptr if the communicator is not attached, or has no such rank.
const Registry::Member* Registry::member_of(const PairKey& pair) const {
  const auto found = members_.find(pair.member);
  const bool exists =
      found != members_.end() && pair.peer >= 0 && index_of(pair.peer) < found->second.peers.size();
  return exists ? &found->second : nullptr;
}

Registry::Member* Registry::member_of(const PairKey& pair) {
  return const_cast<Member*>(std::as_const(*this).member_of(pair));
}

bool Registry::knows(const LinkKey& link) const {
  if (link.process.empty()) return false;  // as the address of the rank itself
  return std::ranges::any_of(
      members_, [&](const auto& entry) { return has_peer_behind(entry.second, link); });
}

bool Registry::has_peer_behind(const Member& member, const LinkKey& link) {
  return std::ranges::any_of(member.addresses, [&](const PeerAddress& address) {
    if (member.sink == nullptr) return address.unix_name == link.process;
    return address.link() == link;
  });
}

std::vector<PairKey> Registry::peers_of(const MemberKey& key) const {
  std::vector<PairKey> pairs;
  const auto found = members_.find(key);
  if (found == members_.end()) return pairs;
  const std::vector<Peer>& peers = found->second.peers;
  for (std::size_t peer = 0; peer < peers.size(); ++peer) {
    const auto rank = static_cast<int>(peer);
    if (rank != key.rank && !peers[peer].has_departed) pairs.push_back({key, rank});
  }
  return pairs;
}

std::vector<PairKey> Registry::peers_behind(const LinkKey& link) const {
  std::vector<PairKey> pairs;
  for (const auto& [key, member] : members_) {
    for (const PairKey& pair : peers_of(key)) {
      if (member.addresses[index_of(pair.peer)].link() == link) pairs.push_back(pair);
    }
  }
  return pairs;
}

const PeerAddress* Registry::find(const PairKey& pair) const {
  const Member* member = member_of(pair);
  if (member == nullptr || member->peers[index_of(pair.peer)].has_departed) return nullptr;
  return &member->addresses[index_of(pair.peer)];
}

void Registry::check_peer(const PairKey& pair) const {
  const auto found = members_.find(pair.member);
  if (found == members_.end() || found->second.sink == nullptr) return;
  const auto world = found->second.peers.size();
  if (pair.peer < 0 || index_of(pair.peer) >= world || pair.peer == pair.member.rank) {
    raise_violation("a connection to rank " + std::to_string(pair.member.rank) +
                    " claims to come from rank " + std::to_string(pair.peer) + " of a group with " +
                    std::to_string(world) + " ranks");
  }
}

void Registry::check_peer(const PairKey& pair, const LinkKey& link) const {
  check_peer(pair);
  const Member* member = member_of(pair);
  if (member == nullptr || member->addresses[index_of(pair.peer)].link() == link) return;
  raise_violation("it speaks for rank " + std::to_string(pair.peer) + ", which is another process");
}

void Registry::channel_opened(const PairKey& pair, int lane, std::unique_ptr<SendChannel> channel) {
  if (Member* member = member_of(pair)) {
    member->sink->on_sender(pair.peer, lane, std::move(channel));
  }
}

void Registry::count_opened(const PairKey& pair) {
  if (Member* member = member_of(pair)) ++member->peers[index_of(pair.peer)].opened;
}

uint32_t Registry::opened(const PairKey& pair) const {
  const Member* member = member_of(pair);
  return member == nullptr ? 0 : member->peers[index_of(pair.peer)].opened;
}

void Registry::channel_arrived(const PairKey& pair, int lane,
                               std::unique_ptr<RecvChannel> channel) {
  Member* member = member_of(pair);
  if (member == nullptr) return;
  std::set<int>& arrived = member->peers[index_of(pair.peer)].arrived;
  if (arrived.contains(lane)) {
    raise_violation("rank " + std::to_string(pair.peer) + " opened lane " + std::to_string(lane) +
                    " twice");
  }
  member->sink->on_receiver(pair.peer, lane, std::move(channel));  // raises for an unknown lane
  arrived.insert(lane);
  depart_if_complete(*member, pair.peer);
}

void Registry::device_segment_arrived(const PairKey& pair, ControlMessage message) {
  Member* member = member_of(pair);
  if (member == nullptr) return;
  if (message.descriptors.size() != 1) {
    raise_violation("a segment of a GPU's memory came without its descriptor");
  }
  member->sink->on_device_segment(pair.peer, message.number, message.size_bytes,
                                  std::move(message.descriptors.front()));
}

void Registry::device_segment_mapped(const PairKey& pair, uint32_t segment) {
  if (Member* member = member_of(pair)) member->sink->on_device_segment_mapped(pair.peer, segment);
}

void Registry::leave(const PairKey& pair, uint32_t opened, const std::string& why) {
  Member* member = member_of(pair);
  if (member == nullptr) return;
  Peer& peer = member->peers[index_of(pair.peer)];
  if (peer.leaves_after) return;
  peer.leaves_after = opened;
  peer.leaves_why = why;
  depart_if_complete(*member, pair.peer);
  if (!peer.has_departed) loop_.call_after(leave_limit_, [this, pair] { lose_incomplete(pair); });
}

void Registry::link_ended(const PairKey& pair, const std::string& why) {
  const Member* member = member_of(pair);
  if (member != nullptr && !member->peers[index_of(pair.peer)].leaves_after) lose(pair, why);
}

void Registry::lose(const PairKey& pair, const std::string& why) {
  if (Member* member = member_of(pair)) depart(*member, pair.peer, /*in_order=*/false, why);
}

void Registry::lose_incomplete(const PairKey& pair) {
  const Member* member = member_of(pair);
  if (member == nullptr) return;
  const Peer& peer = member->peers[index_of(pair.peer)];
  lose(pair, "it left the group after it had opened " +
                 std::to_string(peer.leaves_after.value_or(0)) + " channels, but only " +
                 std::to_string(peer.arrived.size()) + " of them arrived");
}

void Registry::give_up(const PairKey& pair, const Failure& why) {
  if (why.kind != ErrorKind::kOutOfResources) return lose(pair, why.message);
  if (Member* member = member_of(pair)) fail(*member, why);
}

void Registry::give_up(const LinkKey& link, const Failure& why) {
  for (const PairKey& pair : peers_behind(link)) give_up(pair, why);
  if (why.kind != ErrorKind::kOutOfResources) return;
  for (auto& [key, member] : members_) {
    if (member.sink == nullptr && has_peer_behind(member, link)) fail(member, why);
  }
}

void Registry::fail_all(const Failure& why) {
  for (auto& [key, member] : members_) fail(member, why);
}

void Registry::fail(Member& member, const Failure& why) {
  if (member.sink == nullptr) {
    if (!member.failed_early) member.failed_early = why;  // later ones are often consequences
  } else {
    member.sink->on_failed(kNoRank, why);
  }
}

void Registry::fail(const PairKey& pair, Failure failure) {
  Member* member = member_of(pair);
  if (member == nullptr) return;
  const bool exists = member_of({pair.member, failure.peer}) != nullptr;
  if (failure.peer != kNoRank && !exists) failure.peer = pair.peer;
  member->sink->on_failed(pair.peer, failure);
}

void Registry::depart_if_complete(Member& member, int peer) {
  const Peer& state = member.peers[index_of(peer)];
  if (state.leaves_after && state.arrived.size() >= *state.leaves_after) {
    depart(member, peer, /*in_order=*/true, state.leaves_why);
  }
}

void Registry::depart(Member& member, int peer, bool in_order, const std::string& why) {
  Peer& state = member.peers[index_of(peer)];
  if (state.has_departed) return;
  state.has_departed = true;
  member.sink->on_departed(peer, in_order, why);
}

}  // namespace fastgpu
