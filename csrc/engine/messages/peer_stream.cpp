#include "engine/messages/peer_stream.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace fastgpu {
namespace {

void raise_if_departed(ChannelSource& channels, int peer, std::string_view op) {
  if (!channels.departed(peer)) return;
  raise(make_failure(ErrorKind::kPeerLost,
                     "the connection to rank " + std::to_string(peer) + " is closed", peer,
                     std::string(op)));
}

[[noreturn]] void raise_broken(int peer, const std::string& what) {
  raise(make_failure(ErrorKind::kPeerLost, "rank " + std::to_string(peer) + " sent " + what, peer,
                     "recv"));
}

}  // namespace

FrameHeader PeerStream::pack(const Header& header, uint64_t payload_bytes) {
  FrameHeader frame;
  frame.sequence = header.id;
  frame.size_bytes = payload_bytes;
  frame.key = {static_cast<uint64_t>(header.kind) | static_cast<uint64_t>(header.dtype) << 8 |
                   static_cast<uint64_t>(header.tag) << 32,
               header.size_bytes};
  return frame;
}

PeerStream::Header PeerStream::unpack(const FrameHeader& frame) {
  Header header;
  header.kind = static_cast<Kind>(frame.key[0] & 0xff);
  header.dtype = static_cast<DType>((frame.key[0] >> 8) & 0xff);
  header.tag = static_cast<uint32_t>(frame.key[0] >> 32);
  header.id = frame.sequence;
  header.size_bytes = frame.key[1];
  return header;
}

bool PeerStream::poll() {
  bool moved = poll_in();
  moved |= poll_out();
  return moved;
}

bool PeerStream::poll_out() {
  bool moved = false;
  while (departing_ || next_frame()) {
    opened_ = true;
    SendChannel* channel = context_.channels.sender(peer_, context_.lane);
    if (channel == nullptr) return moved;
    const Io io = channel->try_send(departing_->frame);
    if (io == Io::kClosed && is_control(departing_->kind)) {
      // A receive that still needs the peer fails when its own channel has nothing more to give.
      if (!context_.channels.departed(peer_)) return moved;
      departing_.reset();
      continue;
    }
    if (io == Io::kClosed) raise_if_departed(context_.channels, peer_, departing_->op());
    moved |= io == Io::kMoved;
    if (!departing_->frame.done) return moved;
    frame_left();
  }
  return moved;
}

void PeerStream::depart(const Header& header, MessagePtr message, const std::byte* payload,
                        uint64_t size_bytes) {
  Departing& departing = *(departing_ = Departing{});
  departing.kind = header.kind;
  departing.frame.header = pack(header, size_bytes);
  departing.frame.payload = payload;
  departing.message = std::move(message);
}

// Picks what leaves next: kCredit, in batches, then kCts, then pieces of cleared messages, then new
// messages.
bool PeerStream::next_frame() {
  if (opened_ && owed_ >= kEagerBudget / 8) {
    depart({.kind = Kind::kCredit, .size_bytes = owed_}, nullptr, nullptr, 0);
    owed_ = 0;
    return true;
  }
  if (!clearing_.empty()) {
    depart({.kind = Kind::kCts, .id = clearing_.front()}, nullptr, nullptr, 0);
    clearing_.pop_front();
    return true;
  }
  if (!cleared_.empty()) {
    const auto& [id, message] = cleared_.front();
    const uint64_t piece = std::min(kPieceBytes, message->size_bytes - message->moved_bytes);
    depart({.kind = Kind::kData, .tag = message->tag, .id = id, .size_bytes = piece}, message,
           message->data + message->moved_bytes, piece);
    return true;
  }
  if (queue_.empty()) return false;
  if (queue_.front()->put_offset_bytes) {
    depart_piece_of_put(queue_.front());
    return true;
  }
  MessagePtr message = std::move(queue_.front());
  queue_.pop_front();
  Header header{.kind = Kind::kEager,
                .dtype = message->dtype,
                .tag = message->tag,
                .id = ++last_id_,
                .size_bytes = message->size_bytes};
  if (message->size_bytes <= kEagerBytes && cost(message->size_bytes) <= budget_) {
    budget_ -= cost(message->size_bytes);
    const std::byte* payload = message->data;
    depart(header, std::move(message), payload, header.size_bytes);
    return true;
  }
  header.kind = Kind::kRts;
  depart(header, nullptr, nullptr, 0);
  awaiting_cts_[header.id] = std::move(message);
  return true;
}

void PeerStream::depart_piece_of_put(const MessagePtr& put) {
  const uint64_t piece = std::min(kPieceBytes, put->size_bytes - put->moved_bytes);
  depart({.kind = Kind::kPut,
          .dtype = put->dtype,
          .tag = put->tag,
          .id = *put->put_offset_bytes + put->moved_bytes,
          .size_bytes = piece},
         put, put->data + put->moved_bytes, piece);
}

bool PeerStream::is_first_cleared(const MessagePtr& message) const {
  return !cleared_.empty() && cleared_.front().second == message;
}

bool PeerStream::is_first_queued(const MessagePtr& message) const {
  return !queue_.empty() && queue_.front() == message;
}

void PeerStream::frame_left() {
  const uint64_t size_bytes = departing_->frame.header.size_bytes;
  const MessagePtr message = std::move(departing_->message);
  departing_.reset();
  if (message == nullptr) return;
  message->moved_bytes += size_bytes;
  if (message->moved_bytes < message->size_bytes) return;
  if (is_first_cleared(message)) cleared_.pop_front();
  if (is_first_queued(message)) queue_.pop_front();
  context_.finish(message);
}

bool PeerStream::poll_in() {
  RecvChannel* channel = context_.channels.receiver(peer_, context_.lane);
  if (channel == nullptr) return false;
  bool moved = false;
  for (;;) {
    if (!arriving_) {
      FrameHeader frame;
      const Io io = channel->peek(frame);
      if (io == Io::kClosed) {
        const std::string_view op = awaits_peer();
        if (!op.empty()) raise_if_departed(context_.channels, peer_, op);
      }
      if (io != Io::kMoved) return moved;
      begin_frame(frame);
    }
    const Io io = channel->try_recv(arriving_->incoming);
    if (io == Io::kClosed) raise_if_departed(context_.channels, peer_, "recv");
    moved |= io == Io::kMoved;
    if (!arriving_->incoming.done) return moved;
    frame_arrived();
    moved = true;
  }
}

// The operation that cannot end without another frame from the peer; empty: none.
std::string_view PeerStream::awaits_peer() const {
  if (!receiving_.empty()) return "recv";
  for (const MessagePtr& recv : context_.posted) {
    if (recv->peer == peer_ || (recv->peer == kNoRank && ends_any_source_)) return op_of(*recv);
  }
  return awaiting_cts_.empty() ? "" : op_of(*awaiting_cts_.begin()->second);
}

// Decides where the payload of an arriving frame goes.
void PeerStream::begin_frame(const FrameHeader& frame) {
  const Header header = unpack(frame);
  if (static_cast<int>(header.dtype) >= kDTypeCount) raise_broken(peer_, "a malformed message");
  Arriving& arriving = *(arriving_ = Arriving{});
  arriving.header = header;
  arriving.incoming.size_bytes = frame.size_bytes;
  if (header.kind == Kind::kData) {
    const auto found = receiving_.find(header.id);
    if (found == receiving_.end() ||
        frame.size_bytes > found->second->size_bytes - found->second->moved_bytes) {
      raise_broken(peer_, "data that nobody asked for");
    }
    arriving.message = found->second;
    arriving.incoming.target = arriving.message->data + arriving.message->moved_bytes;
  } else if (header.kind == Kind::kEager) {
    if (frame.size_bytes != header.size_bytes || frame.size_bytes > kEagerBytes) {
      raise_broken(peer_, "a malformed message");
    }
    arriving.message = match(header);
    if (arriving.message == nullptr) arriving.payload.resize(frame.size_bytes);
    arriving.incoming.target =
        arriving.message != nullptr ? arriving.message->data : arriving.payload.data();
  } else if (header.kind == Kind::kPut) {
    begin_put(frame);
  } else if (frame.size_bytes != 0) {
    raise_broken(peer_, "a malformed message");
  }
}

void PeerStream::begin_put(const FrameHeader& frame) {
  Arriving& arriving = *arriving_;
  const Header& header = arriving.header;
  const auto memory = context_.windows.find(header.tag);
  if (!memory || header.id > memory->size_bytes ||
      frame.size_bytes > memory->size_bytes - header.id) {
    raise_broken(peer_, "a put of " + std::to_string(frame.size_bytes) + " bytes at " +
                            std::to_string(header.id) + " of window " + std::to_string(header.tag) +
                            ", which is outside of this rank's windows");
  }
  arriving.incoming.target = memory->data + header.id;
  arriving.window = memory->keep_alive;
}

void PeerStream::frame_arrived() {
  Arriving arrived = std::move(*arriving_);
  arriving_.reset();
  const Header& header = arrived.header;
  switch (header.kind) {
    case Kind::kEager:
      return eager_arrived(std::move(arrived));
    case Kind::kRts:
      if (const MessagePtr recv = match(header)) return clear_to_send(header, recv);
      unexpected_[header.tag].push_back({header, {}});
      return;
    case Kind::kCts:
      if (const auto found = awaiting_cts_.find(header.id); found != awaiting_cts_.end()) {
        cleared_.emplace_back(header.id, std::move(found->second));
        awaiting_cts_.erase(found);
      }
      return;
    case Kind::kData:
      return data_arrived(arrived);
    case Kind::kCredit:
      budget_ += header.size_bytes;
      return;
    case Kind::kPut:
      return;
  }
}

void PeerStream::eager_arrived(Arriving arrived) {
  if (arrived.message != nullptr) {
    owed_ += cost(arrived.header.size_bytes);
    context_.finish(arrived.message);
    return;
  }
  Unexpected message{arrived.header, std::move(arrived.payload)};
  // A receive may have been posted since the frame began to arrive.
  if (const MessagePtr recv = match(message.header)) return take_payload(recv, message);
  unexpected_[message.header.tag].push_back(std::move(message));
}

void PeerStream::data_arrived(const Arriving& arrived) {
  MessageOperation& message = *arrived.message;
  message.moved_bytes += arrived.header.size_bytes;
  if (message.moved_bytes < message.size_bytes) return;
  receiving_.erase(arrived.header.id);
  context_.finish(arrived.message);
}

void PeerStream::check(const MessageOperation& recv, const Header& header) const {
  if (recv.dtype == header.dtype && recv.size_bytes == header.size_bytes) return;
  raise(make_failure(ErrorKind::kMismatch,
                     "rank " + std::to_string(peer_) + " sent " +
                         describe_elements(header.dtype, header.size_bytes) + " with tag " +
                         std::to_string(recv.tag) + ", but the matching receive takes " +
                         describe_elements(recv.dtype, recv.size_bytes) +
                         "; both sides must name the same dtype and the same number of elements",
                     peer_, "recv"));
}

// Takes the first posted receive that fits this message off the list; dtypes and sizes must agree.
MessagePtr PeerStream::match(const Header& header) {
  std::list<MessagePtr>& posted = context_.posted;
  const auto found = std::find_if(posted.begin(), posted.end(), [&](const MessagePtr& recv) {
    return (recv->peer == kNoRank || recv->peer == peer_) && recv->tag == header.tag;
  });
  if (found == posted.end()) return nullptr;
  check(**found, header);
  MessagePtr recv = std::move(*found);
  posted.erase(found);
  recv->work->set_source(peer_);
  return recv;
}

bool PeerStream::take_unexpected(const MessagePtr& recv) {
  const auto found = unexpected_.find(recv->tag);
  if (found == unexpected_.end()) return false;
  const Unexpected taken = std::move(found->second.front());
  found->second.pop_front();
  if (found->second.empty()) unexpected_.erase(found);
  check(*recv, taken.header);
  recv->work->set_source(peer_);
  if (taken.header.kind == Kind::kRts) {
    clear_to_send(taken.header, recv);
  } else {
    take_payload(recv, taken);
  }
  return true;
}

void PeerStream::take_payload(const MessagePtr& recv, const Unexpected& message) {
  if (!message.payload.empty()) {
    std::memcpy(recv->data, message.payload.data(), message.payload.size());
  }
  owed_ += cost(message.header.size_bytes);
  context_.finish(recv);
}

void PeerStream::clear_to_send(const Header& header, const MessagePtr& recv) {
  receiving_[header.id] = recv;
  clearing_.push_back(header.id);
}

void PeerStream::for_each_pending(const std::function<void(const MessagePtr&)>& visit) const {
  for (const MessagePtr& send : queue_) visit(send);
  for (const auto& [id, send] : awaiting_cts_) visit(send);
  for (const auto& [id, send] : cleared_) visit(send);
  for (const auto& [id, recv] : receiving_) visit(recv);
  // A message under way as one eager frame is on no list.
  if (departing_ && departing_->message != nullptr && !is_first_cleared(departing_->message) &&
      !is_first_queued(departing_->message)) {
    visit(departing_->message);
  }
  if (arriving_ && arriving_->message != nullptr && arriving_->header.kind == Kind::kEager) {
    visit(arriving_->message);
  }
}

}  // namespace fastgpu
