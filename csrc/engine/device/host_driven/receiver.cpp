#include "engine/device/host_driven/receiver.h"

#include <algorithm>
#include <string>

#include "base/call.h"
#include "base/error.h"

namespace fastgpu {

DeviceReceiver::DeviceReceiver(const Route& route)
    : route_(route), chunks_(route.group.runtime, route.group.executor, kMostChunkBytes) {}

DeviceReceiver::~DeviceReceiver() {
  change_pending(-static_cast<int64_t>(due_.size()) - (in_bytes_ ? 1 : 0));
}

void DeviceReceiver::change_pending(int64_t change) const {
  route_.group.pending.fetch_add(change, std::memory_order_relaxed);
}

Io DeviceReceiver::peek(FrameHeader& header) {
  if (!in_frame_) {
    if (const Io io = take_post(); io != Io::kMoved) return io;
  }
  header = header_;
  return Io::kMoved;
}

Io DeviceReceiver::take_post() {
  RecvChannel* const channel = route_.posts_in();
  if (channel == nullptr) return closed_.load() ? Io::kClosed : Io::kBlocked;
  if (!in_post_) {
    if (const Io io = channel->peek(header_); io != Io::kMoved) return io;
    if (header_.size_bytes != sizeof(Post)) {
      raise(ErrorKind::kMismatch,
            "a frame of " + std::to_string(header_.size_bytes) +
                " bytes came where a place in device memory should; does the peer use the same "
                "device and the same version?");
    }
    post_in_ = {};
    post_in_.target = reinterpret_cast<std::byte*>(&post_);
    post_in_.size_bytes = sizeof(Post);
    in_post_ = true;
  }
  if (const Io io = channel->try_recv(post_in_); !post_in_.done) {
    return io == Io::kMoved ? Io::kBlocked : io;
  }
  in_post_ = false;
  check_post();
  header_.size_bytes = post_.size_bytes;
  in_frame_ = true;
  return Io::kMoved;
}

void DeviceReceiver::check_post() const {
  const uint64_t piece_bytes = post_.piece_bytes();
  switch (post_.kind()) {
    case PostKind::kEmpty:
      if (post_.size_bytes == 0) return;
      break;
    case PostKind::kMapped:
      return;
    case PostKind::kBytes:
      if (piece_bytes > 0 && piece_bytes <= kMostChunkBytes && piece_bytes % 16 == 0) return;
      break;
  }
  raise(ErrorKind::kPeerLost, "a peer described a frame of " + std::to_string(post_.size_bytes) +
                                  " bytes of device memory in a way that is unknown here (" +
                                  std::to_string(post_.where) +
                                  "); its process is broken, or of another version");
}

Io DeviceReceiver::try_recv(Incoming& incoming) {
  return latch_device_failure(route_.group, [&] { return take(incoming); });
}

Io DeviceReceiver::take(Incoming& incoming) {
  switch (post_.kind()) {
    case PostKind::kMapped:
      return take_mapped(incoming);
    case PostKind::kBytes:
      return take_bytes(incoming);
    case PostKind::kEmpty:
      break;
  }
  incoming.advance(0);
  in_frame_ = false;
  return Io::kMoved;
}

Io DeviceReceiver::take_mapped(Incoming& incoming) {
  const std::byte* const source =
      route_.group.peers.segments(route_.peer).at(post_.span(), incoming.size_bytes);
  if (source == nullptr) return closed_.load() ? Io::kClosed : Io::kBlocked;
  enqueue(incoming, source, incoming.size_bytes);
  Acknowledgement& due = due_.emplace_back();
  due.mark = route_.group.executor.mark_later();
  due.frame.header = header_;
  due.frame.header.size_bytes = 0;
  change_pending(1);
  incoming.advance(incoming.size_bytes);
  in_frame_ = false;
  return Io::kMoved;
}

// Takes a piece into a chunk that no work reads any more, and enqueues the work that reads it
// there: devices read pinned memory directly.
Io DeviceReceiver::take_bytes(Incoming& incoming) {
  RecvChannel* const channel = route_.posts_in();
  if (channel == nullptr) return Io::kBlocked;
  DeviceExecutor& executor = route_.group.executor;
  bool moved = false;
  if (!in_bytes_) change_pending(1);
  in_bytes_ = true;
  while (!incoming.done) {
    if (executor.passed() < marks_[next_chunk_ % kChunks]) break;
    std::byte* const chunk = chunks_.at(next_chunk_);
    FrameHeader header;
    if (!in_piece_) {
      if (const Io io = channel->peek(header); io != Io::kMoved) return moved ? Io::kMoved : io;
      piece_in_ = {};
      piece_in_.target = chunk;
      piece_in_.size_bytes = std::min(post_.piece_bytes(), incoming.left_bytes());
      if (header.size_bytes != piece_in_.size_bytes) {
        raise(ErrorKind::kPeerLost, "a peer sent a piece of " + std::to_string(header.size_bytes) +
                                        " bytes instead of " +
                                        std::to_string(piece_in_.size_bytes) +
                                        "; its process is broken, restart the job");
      }
      in_piece_ = true;
    }
    const Io io = channel->try_recv(piece_in_);
    if (io == Io::kClosed) return io;
    moved |= io == Io::kMoved;
    if (!piece_in_.done) break;
    in_piece_ = false;
    enqueue(incoming, chunk, piece_in_.size_bytes);
    marks_[next_chunk_++ % kChunks] = executor.mark();
    incoming.advance(piece_in_.size_bytes);
  }
  if (incoming.done) {
    change_pending(-1);
    in_bytes_ = in_frame_ = false;
  }
  return moved ? Io::kMoved : Io::kBlocked;
}

// The engine has compared the frame's key with its own call, so the key names the reduction.
void DeviceReceiver::enqueue(const Incoming& incoming, const std::byte* source,
                             uint64_t size_bytes) const {
  DeviceExecutor& executor = route_.group.executor;
  Call call;
  if (!incoming.sink.reduces()) {
    incoming.is_continued ? executor.start_sum(incoming.next(), source, size_bytes)
                          : executor.copy(incoming.next(), source, size_bytes);
  } else if (unpack(header_.key, call)) {
    executor.reduce(incoming.next(), source, size_bytes,
                    {.dtype = call.shape.dtype,
                     .reduce_op = call.shape.reduce_op,
                     .factor = incoming.sink.factor,
                     .is_continued = incoming.is_continued});
  } else {
    raise(ErrorKind::kMismatch, "a frame to be reduced names no call");
  }
}

Io DeviceReceiver::pump() {
  bool moved = false;
  while (!due_.empty() && route_.group.executor.passed() >= due_.front().mark) {
    SendChannel* const channel = route_.acknowledgements_out();
    if (channel == nullptr) break;
    const Io io = channel->try_send(due_.front().frame);
    if (io == Io::kClosed) return io;
    moved |= io == Io::kMoved;
    if (!due_.front().frame.done) break;
    due_.pop_front();
    change_pending(-1);
  }
  return moved ? Io::kMoved : Io::kBlocked;
}

}  // namespace fastgpu
