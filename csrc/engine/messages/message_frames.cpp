// The protocol of messages: which frame leaves next, and what an arriving one means.
#include <algorithm>
#include <cstring>
#include <string>

#include "engine/messages/message_queue.h"

namespace fastgpu {
namespace {

void check_size(int peer, const MessageOperation& recv, uint64_t size_bytes) {
  if (recv.size_bytes == size_bytes) return;
  MessageQueue::raise_failure(
      ErrorKind::kMismatch, peer, "recv",
      "rank " + std::to_string(peer) + " sent a message of " + std::to_string(size_bytes) +
          " bytes with tag " + std::to_string(recv.tag) + ", but the matching receive is of " +
          std::to_string(recv.size_bytes) + " bytes; both sides must name the same size");
}

void raise_if_departed(ChannelSource& channels, int peer, const char* op) {
  if (!channels.departed(peer)) return;
  MessageQueue::raise_failure(ErrorKind::kPeerLost, peer, op,
                              "the connection to rank " + std::to_string(peer) + " is closed");
}

}  // namespace

FrameHeader MessageQueue::pack(const Header& header, uint64_t payload_bytes) {
  FrameHeader frame;
  frame.ordinal = header.count;
  frame.sequence = header.id;
  frame.size_bytes = payload_bytes;
  frame.key = {static_cast<uint64_t>(header.kind) | static_cast<uint64_t>(header.tag) << 32,
               header.size_bytes};
  return frame;
}

MessageQueue::Header MessageQueue::unpack(const FrameHeader& frame) {
  Header header;
  header.kind = static_cast<Kind>(frame.key[0] & 0xff);
  header.tag = static_cast<uint32_t>(frame.key[0] >> 32);
  header.id = frame.sequence;
  header.size_bytes = frame.key[1];
  header.count = frame.ordinal;
  return header;
}

bool MessageQueue::poll_out(int rank, Peer& peer) {
  bool moved = false;
  while (peer.frame || next_frame(peer)) {
    SendChannel* channel = channels_.sender(rank, lane_);
    if (channel == nullptr) return moved;
    const Io io = channel->try_send(*peer.frame);
    if (io == Io::kClosed) raise_if_departed(channels_, rank, "send");
    moved |= io == Io::kMoved;
    if (!peer.frame->done) return moved;
    frame_left(peer);
  }
  return moved;
}

// Picks what leaves next: protocol first, then granted pieces, then new messages.
bool MessageQueue::next_frame(Peer& peer) {
  const auto put = [&](const Header& header, const std::byte* payload, uint64_t size_bytes) {
    peer.frame.emplace();
    peer.frame->header = pack(header, size_bytes);
    peer.frame->payload = payload;
    return true;
  };
  peer.frame_of.reset();
  if (!peer.controls.empty()) {
    const Header header = peer.controls.front();
    peer.controls.pop_front();
    return put(header, nullptr, 0);
  }
  if (!peer.granted.empty()) {
    auto& [id, message] = peer.granted.front();
    const uint64_t piece = std::min(kPieceBytes, message->size_bytes - message->moved_bytes);
    peer.frame_of = message;
    return put({.kind = Kind::kData, .tag = message->tag, .id = id, .size_bytes = piece},
               message->data + message->moved_bytes, piece);
  }
  if (peer.queue.empty() || peer.message_budget == 0) return false;
  const Message message = std::move(peer.queue.front());
  peer.queue.pop_front();
  --peer.message_budget;
  Header header{.kind = Kind::kEager,
                .tag = message->tag,
                .id = ++peer.next_id,
                .size_bytes = message->size_bytes};
  if (message->size_bytes <= kEagerBytes && message->size_bytes <= peer.byte_budget) {
    peer.byte_budget -= message->size_bytes;
    peer.frame_of = message;
    return put(header, message->data, message->size_bytes);
  }
  header.kind = Kind::kRts;
  peer.offered[header.id] = message;
  return put(header, nullptr, 0);
}

void MessageQueue::frame_left(Peer& peer) {
  const uint64_t size_bytes = peer.frame->header.size_bytes;
  peer.frame.reset();
  const Message message = std::move(peer.frame_of);
  if (message == nullptr) return;
  message->moved_bytes += size_bytes;
  if (message->moved_bytes < message->size_bytes) return;
  if (!peer.granted.empty() && peer.granted.front().second == message) peer.granted.pop_front();
  finish(message);
}

bool MessageQueue::poll_in(int rank, Peer& peer) {
  RecvChannel* channel = channels_.receiver(rank, lane_);
  if (channel == nullptr) return false;
  bool moved = false;
  for (;;) {
    if (!peer.head) {
      FrameHeader frame;
      const Io io = channel->peek(frame);
      if (io == Io::kClosed) {
        const char* op = awaited(rank, peer);
        if (op != nullptr) raise_if_departed(channels_, rank, op);
      }
      if (io != Io::kMoved) return moved;
      begin_frame(rank, peer, frame);
    }
    const Io io = channel->try_recv(peer.incoming);
    if (io == Io::kClosed) raise_if_departed(channels_, rank, "recv");
    moved |= io == Io::kMoved;
    if (!peer.incoming.done) return moved;
    frame_arrived(rank, peer);
    moved = true;
  }
}

// What waits for word from a peer that has closed its channel; nullptr: nothing. A receive from any
// rank may still be served by the others where a peer left in order, but not where it was lost.
const char* MessageQueue::awaited(int rank, const Peer& peer) const {
  if (!peer.receiving.empty()) return "recv";
  for (const Message& recv : posted_) {
    if (recv->peer == rank) return "recv";
    if (recv->peer != kNoRank) continue;
    if (presences_[static_cast<std::size_t>(rank)] == Presence::kLost) return "recv";
    if (gone_ >= world_ - 1) return "recv";
  }
  if (!peer.offered.empty()) return "send";
  return !peer.queue.empty() && peer.message_budget == 0 ? "send" : nullptr;
}

// Decides where the payload of an arriving frame goes.
void MessageQueue::begin_frame(int rank, Peer& peer, const FrameHeader& frame) {
  const Header header = unpack(frame);
  peer.head = header;
  peer.into.reset();
  peer.incoming = {};
  peer.incoming.size_bytes = frame.size_bytes;
  if (header.kind == Kind::kData) {
    const auto found = peer.receiving.find(header.id);
    if (found == peer.receiving.end() ||
        frame.size_bytes > found->second->size_bytes - found->second->moved_bytes) {
      raise_failure(ErrorKind::kPeerLost, rank, "recv",
                    "rank " + std::to_string(rank) + " sent data that nobody asked for");
    }
    peer.into = found->second;
    peer.incoming.target = peer.into->data + peer.into->moved_bytes;
  } else if (header.kind == Kind::kEager) {
    if (frame.size_bytes != header.size_bytes || frame.size_bytes > kEagerBytes) {
      raise_failure(ErrorKind::kPeerLost, rank, "recv",
                    "rank " + std::to_string(rank) + " sent a malformed message");
    }
    peer.into = match(rank, header);
    peer.arriving.resize(peer.into ? 0 : frame.size_bytes);
    peer.incoming.target = peer.into ? peer.into->data : peer.arriving.data();
  } else if (frame.size_bytes != 0) {
    raise_failure(ErrorKind::kPeerLost, rank, "recv",
                  "rank " + std::to_string(rank) + " sent a malformed message");
  }
}

void MessageQueue::frame_arrived(int rank, Peer& peer) {
  const Header header = *peer.head;
  peer.head.reset();
  const Message message = std::move(peer.into);
  switch (header.kind) {
    case Kind::kEager:
      if (message != nullptr) {
        give_back(peer, header);
        finish(message);
      } else {
        peer.unexpected.push_back({header, std::move(peer.arriving)});
        // A receive may have been posted while it arrived.
        for (auto recv = posted_.begin(); recv != posted_.end(); ++recv) {
          const bool from_here = (*recv)->peer == kNoRank || (*recv)->peer == rank;
          if (!from_here || !match_unexpected(*recv, rank, peer)) continue;
          posted_.erase(recv);
          break;
        }
      }
      break;
    case Kind::kRts:
      if (const Message recv = match(rank, header)) {
        peer.receiving[header.id] = recv;
        peer.controls.push_back({.kind = Kind::kCts, .id = header.id});
      } else {
        peer.unexpected.push_back({header, {}});
      }
      break;
    case Kind::kCts:
      if (const auto found = peer.offered.find(header.id); found != peer.offered.end()) {
        peer.granted.emplace_back(header.id, std::move(found->second));
        peer.offered.erase(found);
      }
      break;
    case Kind::kData:
      message->moved_bytes += header.size_bytes;
      if (message->moved_bytes == message->size_bytes) {
        peer.receiving.erase(header.id);
        give_back(peer, {.kind = Kind::kRts});
        finish(message);
      }
      break;
    case Kind::kCredit:
      peer.message_budget += header.count;
      peer.byte_budget += header.size_bytes;
      break;
  }
}

// The first posted receive that takes this message, off the list; its size is checked.
MessageQueue::Message MessageQueue::match(int rank, const Header& header) {
  const auto found = std::find_if(posted_.begin(), posted_.end(), [&](const Message& recv) {
    return (recv->peer == kNoRank || recv->peer == rank) && recv->tag == header.tag;
  });
  if (found == posted_.end()) return nullptr;
  check_size(rank, **found, header.size_bytes);
  Message recv = std::move(*found);
  posted_.erase(found);
  recv->work->set_source(rank);
  return recv;
}

bool MessageQueue::match_unexpected(const Message& recv, int rank, Peer& peer) {
  const auto found =
      std::find_if(peer.unexpected.begin(), peer.unexpected.end(),
                   [&](const Arrived& arrived) { return arrived.header.tag == recv->tag; });
  if (found == peer.unexpected.end()) return false;
  Arrived arrived = std::move(*found);
  peer.unexpected.erase(found);
  check_size(rank, *recv, arrived.header.size_bytes);
  recv->work->set_source(rank);
  if (arrived.header.kind == Kind::kRts) {
    peer.receiving[arrived.header.id] = recv;
    peer.controls.push_back({.kind = Kind::kCts, .id = arrived.header.id});
    return true;
  }
  if (!arrived.payload.empty()) {
    std::memcpy(recv->data, arrived.payload.data(), arrived.payload.size());
  }
  give_back(peer, arrived.header);
  finish(recv);
  return true;
}

// Credits are batched, but never while the sender may be waiting for them.
void MessageQueue::give_back(Peer& peer, const Header& header) {
  ++peer.owed_messages;
  if (header.kind == Kind::kEager) peer.owed_bytes += header.size_bytes;
  const bool pressed = peer.unexpected.size() >= kMessageBudget / 2;
  if (!pressed && peer.owed_messages < kMessageBudget / 8 && peer.owed_bytes < kByteBudget / 8) {
    return;
  }
  peer.controls.push_back(
      {.kind = Kind::kCredit, .size_bytes = peer.owed_bytes, .count = peer.owed_messages});
  peer.owed_messages = 0;
  peer.owed_bytes = 0;
}

}  // namespace fastgpu
