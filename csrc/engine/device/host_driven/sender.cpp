#include "engine/device/host_driven/sender.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace fastgpu {

DeviceSender::DeviceSender(const Route& route)
    : route_(route), chunks_(route.group.runtime, route.group.executor, route.group.chunk_bytes) {}

DeviceSender::~DeviceSender() {
  route_.group.pending.fetch_sub(static_cast<int64_t>(frames_.size()), std::memory_order_relaxed);
}

Io DeviceSender::try_send(Outgoing& frame) {
  return latch_device_failure(route_.group, [&] { return send(frame); });
}

Io DeviceSender::send(Outgoing& frame) {
  if (closed_.load(std::memory_order_acquire)) return Io::kClosed;
  bool moved = false;
  if (frame.progress == 0 && frames_.size() < kMostFrames) {
    add(frame);
    frame.progress = added_;
    frame.taken = moved = true;
  }
  const Io io = pump();
  if (frame.progress != 0 && has_left(frame.progress)) {
    frame.done = true;
    return Io::kMoved;
  }
  return io == Io::kBlocked && moved ? Io::kMoved : io;
}

void DeviceSender::add(const Outgoing& frame) {
  Frame added;
  added.header = frame.header;
  added.payload = frame.payload;
  added.post = post_for(frame);
  // Bytes are copied by the same stream, after the work that makes them.
  if (added.post.kind() != PostKind::kBytes) added.mark = route_.group.executor.mark();
  frames_.push_back(added);
  Outgoing& announcement = frames_.back().announcement;
  announcement.header = frame.header;
  announcement.header.size_bytes = sizeof(Post);
  announcement.payload = reinterpret_cast<const std::byte*>(&frames_.back().post);
  ++added_;
  route_.group.pending.fetch_add(1, std::memory_order_relaxed);
}

Post DeviceSender::post_for(const Outgoing& frame) {
  const uint64_t size_bytes = frame.header.size_bytes;
  DeviceGroup& group = route_.group;
  if (size_bytes == 0) return Post::empty();
  const auto span = group.peers.maps(route_.peer) ? group.heap.find(frame.payload, size_bytes)
                                                  : std::optional<SegmentSpan>();
  if (!span || span->segment > Post::kMostSegments) {
    return Post::bytes(group.chunk_bytes, size_bytes);
  }
  if (std::ranges::find(shared_, span->segment) == shared_.end()) {
    group.peers.share(route_.peer, span->segment);
    shared_.push_back(span->segment);
  }
  return Post::mapped(*span, size_bytes);
}

Io DeviceSender::pump() {
  if (closed_.load(std::memory_order_acquire)) return Io::kClosed;
  if (frames_.empty()) return Io::kBlocked;
  const Io sent = send_frames();
  const Io read = read_acknowledgements();
  const bool ended = end_frames();
  if (ended || sent == Io::kMoved || read == Io::kMoved) return Io::kMoved;
  return sent == Io::kClosed || read == Io::kClosed ? Io::kClosed : Io::kBlocked;
}

Io DeviceSender::send_frames() {
  bool moved = false;
  for (Frame& frame : frames_) {
    if (is_sent(frame)) continue;
    const Io io = is_announced(frame) ? send_bytes(frame) : announce(frame);
    if (io == Io::kClosed) return io;
    moved |= io == Io::kMoved;
    if (!is_sent(frame)) break;  // frames do not mix
  }
  return moved ? Io::kMoved : Io::kBlocked;
}

bool DeviceSender::is_sent(const Frame& frame) const {
  if (frame.post.kind() == PostKind::kBytes) return frame.sent_bytes == frame.header.size_bytes;
  return is_announced(frame);
}

Io DeviceSender::announce(Frame& frame) {
  const bool is_bytes = frame.post.kind() == PostKind::kBytes;
  bool moved = is_bytes && copy_to_chunks(frame);
  if (!is_bytes && route_.group.executor.passed() < frame.mark) return Io::kBlocked;
  SendChannel* const channel = route_.posts_out();
  if (channel == nullptr) return moved ? Io::kMoved : Io::kBlocked;
  const Io io = channel->try_send(frame.announcement);
  if (is_announced(frame) && frame.post.kind() == PostKind::kEmpty) frame.left = true;
  return io == Io::kBlocked && moved ? Io::kMoved : io;
}

// Copies as much of the payload as there are free chunks.
bool DeviceSender::copy_to_chunks(Frame& frame) {
  bool moved = false;
  DeviceExecutor& executor = route_.group.executor;
  while (frame.copied_bytes < frame.header.size_bytes && pieces_.size() < kChunks) {
    Piece piece;
    const uint64_t size_bytes =
        std::min(chunks_.chunk_bytes(), frame.header.size_bytes - frame.copied_bytes);
    std::byte* const chunk = chunks_.at(next_chunk_++);
    executor.copy(chunk, frame.payload + frame.copied_bytes, size_bytes);
    piece.mark = executor.mark();
    piece.frame.header = frame.header;
    piece.frame.header.size_bytes = size_bytes;
    piece.frame.payload = chunk;
    frame.copied_bytes += size_bytes;
    pieces_.push_back(piece);
    moved = true;
  }
  return moved;
}

Io DeviceSender::send_bytes(Frame& frame) {
  bool moved = copy_to_chunks(frame);
  while (!pieces_.empty() && route_.group.executor.passed() >= pieces_.front().mark) {
    SendChannel* const channel = route_.posts_out();
    if (channel == nullptr) break;
    Outgoing& piece = pieces_.front().frame;
    const Io io = channel->try_send(piece);
    if (io == Io::kClosed) return io;
    moved |= io == Io::kMoved;
    if (!piece.done) break;
    frame.sent_bytes += piece.header.size_bytes;
    pieces_.pop_front();
    moved |= copy_to_chunks(frame);
  }
  return moved ? Io::kMoved : Io::kBlocked;
}

// Acknowledgements come in order: each is for the oldest frame in a segment that has none yet.
Io DeviceSender::read_acknowledgements() {
  bool moved = false;
  for (Frame& frame : frames_) {
    if (!is_announced(frame)) break;
    if (frame.post.kind() != PostKind::kMapped || frame.left) continue;
    RecvChannel* const channel = route_.acknowledgements_in();
    if (channel == nullptr) break;
    FrameHeader header;
    const Io io = channel->peek(header);
    if (io == Io::kClosed && !moved) return io;
    if (io != Io::kMoved) break;
    if (header.sequence != frame.header.sequence || header.ordinal != frame.header.ordinal ||
        header.size_bytes != 0) {
      raise(ErrorKind::kPeerLost, "the peer acknowledged frame " + std::to_string(header.ordinal) +
                                      " of operation " + std::to_string(header.sequence) +
                                      ", which was not sent; its process is broken");
    }
    Incoming nothing;
    if (channel->try_recv(nothing) != Io::kMoved) break;
    frame.left = moved = true;
  }
  return moved ? Io::kMoved : Io::kBlocked;
}

// Bytes have left when their copy to chunks is enqueued: the stream runs later writes to the same
// memory after that copy.
bool DeviceSender::end_frames() {
  bool ended = false;
  for (Frame& frame : frames_) {
    if (frame.left || frame.post.kind() != PostKind::kBytes) continue;
    if (frame.copied_bytes < frame.header.size_bytes) break;
    frame.left = ended = true;
  }
  while (!frames_.empty() && frames_.front().left && is_sent(frames_.front())) {
    frames_.pop_front();
    route_.group.pending.fetch_sub(1, std::memory_order_relaxed);
  }
  return ended;
}

bool DeviceSender::has_left(uint64_t number) const {
  const uint64_t ended = added_ - frames_.size();
  return number <= ended || frames_[number - ended - 1].left;
}

}  // namespace fastgpu
