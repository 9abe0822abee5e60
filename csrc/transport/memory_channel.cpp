#include "transport/memory_channel.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <vector>

namespace fastgpu {
namespace {

// A frame in the queue. With capacity 0 it refers to the sender's memory, which the sender leaves
// unchanged until the receiver has taken everything.
struct Frame {
  FrameHeader header;
  const std::byte* payload = nullptr;  // the sender's memory, or nullptr: copied
  std::vector<std::byte> copied;
  uint64_t arrived_bytes = 0;
  uint64_t taken_bytes = 0;

  const std::byte* data() const { return payload != nullptr ? payload : copied.data(); }
};

struct Pipe {
  Pipe(std::size_t capacity_frames, std::size_t piece)
      : capacity(capacity_frames), piece_bytes(std::max<std::size_t>(piece, 1)) {}

  const std::size_t capacity;
  const std::size_t piece_bytes;
  std::mutex mutex;
  // guarded by mutex
  std::deque<Frame> frames;
  bool pushed = false;  // the frame being sent is in `frames`
  bool closed = false;

  void close() noexcept {
    const std::lock_guard lock(mutex);
    closed = true;
    // The sender may now change its memory.
    if (capacity == 0) frames.clear();
  }
};

class MemorySender : public SendChannel {
 public:
  explicit MemorySender(std::shared_ptr<Pipe> pipe) : pipe_(std::move(pipe)) {}
  ~MemorySender() override { pipe_->close(); }
  MemorySender(const MemorySender&) = delete;
  MemorySender& operator=(const MemorySender&) = delete;

  Io try_send(Outgoing& frame) override {
    const std::lock_guard lock(pipe_->mutex);
    if (pipe_->closed) return Io::kClosed;
    return pipe_->capacity == 0 ? lend(frame) : copy_in(frame);
  }

  void hang_up() noexcept override { pipe_->close(); }

 private:
  Io lend(Outgoing& frame) {
    if (!pipe_->pushed) {
      pipe_->frames.push_back(Frame{.header = frame.header,
                                    .payload = frame.payload,
                                    .copied = {},
                                    .arrived_bytes = frame.header.size_bytes});
      pipe_->pushed = true;
      return Io::kMoved;  // the receiver sees it now
    }
    if (!pipe_->frames.empty()) return Io::kBlocked;
    finish(frame);
    return Io::kMoved;
  }

  Io copy_in(Outgoing& frame) {
    if (!pipe_->pushed) {
      if (pipe_->frames.size() >= pipe_->capacity) return Io::kBlocked;
      Frame& added = pipe_->frames.emplace_back();
      added.header = frame.header;
      added.copied.resize(frame.header.size_bytes);
      pipe_->pushed = true;
    }
    // The frame being sent is always the last, because the receiver cannot have finished it yet.
    Frame& last = pipe_->frames.back();
    const uint64_t left = frame.header.size_bytes - frame.progress;
    const auto piece = static_cast<std::size_t>(std::min<uint64_t>(left, pipe_->piece_bytes));
    std::copy_n(frame.payload + frame.progress, piece, last.copied.data() + frame.progress);
    frame.progress += piece;
    last.arrived_bytes = frame.progress;
    if (frame.progress == frame.header.size_bytes) finish(frame);
    return Io::kMoved;
  }

  void finish(Outgoing& frame) {
    frame.progress = frame.header.size_bytes;
    frame.done = true;
    pipe_->pushed = false;
  }

  std::shared_ptr<Pipe> pipe_;
};

class MemoryReceiver : public RecvChannel {
 public:
  explicit MemoryReceiver(std::shared_ptr<Pipe> pipe) : pipe_(std::move(pipe)) {}
  ~MemoryReceiver() override { pipe_->close(); }
  MemoryReceiver(const MemoryReceiver&) = delete;
  MemoryReceiver& operator=(const MemoryReceiver&) = delete;

  Io peek(FrameHeader& header) override {
    const std::lock_guard lock(pipe_->mutex);
    if (pipe_->frames.empty()) return nothing();
    header = pipe_->frames.front().header;
    return Io::kMoved;
  }

  Io try_recv(Incoming& incoming) override {
    const std::lock_guard lock(pipe_->mutex);
    if (pipe_->frames.empty()) return nothing();
    Frame& frame = pipe_->frames.front();
    const uint64_t arrived = frame.arrived_bytes - frame.taken_bytes;
    const uint64_t most = std::max<uint64_t>(pipe_->piece_bytes, incoming.sink.element_size);
    const uint64_t piece = incoming.sink.takeable(std::min(arrived, most));
    if (piece == 0 && frame.taken_bytes < frame.header.size_bytes) return nothing();
    incoming.take(frame.data() + frame.taken_bytes, static_cast<std::size_t>(piece));
    frame.taken_bytes += piece;
    if (frame.taken_bytes == frame.header.size_bytes) pipe_->frames.pop_front();
    return Io::kMoved;
  }

  void hang_up() noexcept override { pipe_->close(); }

 private:
  Io nothing() const { return pipe_->closed ? Io::kClosed : Io::kBlocked; }

  std::shared_ptr<Pipe> pipe_;
};

}  // namespace

ChannelPair make_memory_channel(std::size_t capacity, std::size_t piece_bytes) {
  auto pipe = std::make_shared<Pipe>(capacity, piece_bytes);
  return {std::make_unique<MemorySender>(pipe), std::make_unique<MemoryReceiver>(pipe)};
}

}  // namespace fastgpu
