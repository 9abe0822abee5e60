#include "transport/tcp/tcp.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "base/log.h"
#include "transport/tcp/send_buffer.h"

namespace fastgpu {
namespace {

// A header has the same bytes on the wire as in memory (docs/wire.md).
static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

constexpr std::size_t kHeaderBytes = sizeof(FrameHeader);
// The most bytes per try_send() or try_recv(), so that one channel does not hold up the others.
constexpr std::size_t kTcpCallBytes = 1 << 20;
// A read asks for this many bytes more than it needs. That is enough for the next small frames. It
// is little of a large payload, which would have to be copied from here to its target.
constexpr std::size_t kReadAheadBytes = 8 << 10;
// Payloads to reduce are read in pieces of this size, which stay in the L2 cache until they are
// reduced.
constexpr std::size_t kReducePieceBytes = 64 << 10;
constexpr std::size_t kBufferBytes = kReducePieceBytes + kReadAheadBytes;
constexpr std::size_t kAlignment = 64;

// The stream of a channel. The poller watches it while the channel exists.
class Connection {
 public:
  Connection(std::unique_ptr<Stream> stream, Poller& poller)
      : stream_(std::move(stream)), poller_(poller) {
    poller_.add(stream_->fd());
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { poller_.remove(stream_->fd()); }

  Stream& stream() noexcept { return *stream_; }
  // Any thread: the stream is destroyed only with the channel.
  void hang_up() noexcept {
    hung_up_.store(true, std::memory_order_release);
    stream_->shut_down();
  }
  bool hung_up() const noexcept { return hung_up_.load(std::memory_order_acquire); }

 private:
  std::unique_ptr<Stream> stream_;
  Poller& poller_;
  std::atomic<bool> hung_up_ = false;
};

class TcpSender final : public SendChannel {
 public:
  TcpSender(std::unique_ptr<Stream> stream, Poller& poller)
      : connection_(std::move(stream), poller) {}

  Io try_send(Outgoing& frame) override {
    if (closed_ || connection_.hung_up()) return Io::kClosed;
    if (frame.header.size_bytes > kMaxTcpFrameBytes) return refuse(frame.header.size_bytes);
    const uint64_t total = kHeaderBytes + frame.header.size_bytes;
    const uint64_t stop = std::min<uint64_t>(total, frame.progress + kTcpCallBytes);
    bool moved = false;
    while (frame.progress < stop) {
      std::size_t size = 0;
      Io io = write_to(frame, stop, &size);
      if (io == Io::kBlocked && peer_ended()) io = Io::kClosed;
      if (io == Io::kClosed) closed_ = true;
      if (io == Io::kBlocked) buffer_.on_full();
      if (io != Io::kMoved) return moved ? Io::kMoved : io;
      frame.progress += size;
      moved = true;
    }
    frame.done = frame.progress == total;
    return Io::kMoved;
  }

  void hang_up() noexcept override { connection_.hang_up(); }

 private:
  // Writes bytes [progress, stop) of the frame, which is the header and then the payload.
  Io write_to(Outgoing& frame, uint64_t stop, std::size_t* size) noexcept {
    std::array<iovec, 2> parts{};
    std::size_t count = 0;
    uint64_t at = frame.progress;
    if (at < kHeaderBytes) {
      parts[count++] = {.iov_base = reinterpret_cast<std::byte*>(&frame.header) + at,
                        .iov_len = kHeaderBytes - at};
      at = kHeaderBytes;
    }
    if (at < stop)
      parts[count++] = {.iov_base = const_cast<std::byte*>(frame.payload) + (at - kHeaderBytes),
                        .iov_len = stop - at};
    return connection_.stream().write(std::span(parts).first(count), size);
  }

  // A receiver never writes, so a sender can read nothing but the end of the stream. Without this
  // test, a receiver that hung up with a full window would block its sender for ever.
  bool peer_ended() noexcept {
    std::byte unused{};
    const std::array<iovec, 1> part = {iovec{.iov_base = &unused, .iov_len = 1}};
    std::size_t size = 0;
    return connection_.stream().read(part, &size) != Io::kBlocked;
  }

  Io refuse(uint64_t size_bytes) noexcept {
    log(LogLevel::kError, "frame_too_large",
        "direction=send size_bytes=" + std::to_string(size_bytes));
    closed_ = true;
    connection_.hang_up();
    return Io::kClosed;
  }

  Connection connection_;
  TcpSendBuffer buffer_{connection_.stream().fd()};
  bool closed_ = false;
};

// Bytes that were read from the stream and not used yet: [begin_, end_) of an aligned block.
class ReadBuffer {
 public:
  const std::byte* data() const noexcept { return block_.get() + begin_; }
  std::size_t size() const noexcept { return end_ - begin_; }
  void drop(std::size_t size) noexcept { begin_ += size; }
  void grow(std::size_t size) noexcept { end_ += size; }

  // Space for up to `wanted` bytes after the held ones. If there is too little, the held bytes move
  // to `offset` first.
  iovec room(std::size_t wanted, std::size_t offset) noexcept {
    if (size() == 0) begin_ = end_ = offset;
    if (kBufferBytes - end_ < wanted) move_to(offset);
    return {.iov_base = block_.get() + end_, .iov_len = std::min(wanted, kBufferBytes - end_)};
  }

  void align(std::size_t alignment) noexcept {
    if (begin_ % alignment != 0) move_to(0);
  }

 private:
  struct Free {
    void operator()(std::byte* block) const noexcept {
      ::operator delete(block, std::align_val_t(kAlignment));
    }
  };

  void move_to(std::size_t offset) noexcept {
    std::memmove(block_.get() + offset, data(), size());
    end_ = offset + size();
    begin_ = offset;
  }

  std::unique_ptr<std::byte, Free> block_{
      static_cast<std::byte*>(::operator new(kBufferBytes, std::align_val_t(kAlignment)))};
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

class TcpReceiver final : public RecvChannel {
 public:
  TcpReceiver(std::unique_ptr<Stream> stream, Poller& poller)
      : connection_(std::move(stream), poller) {}

  Io peek(FrameHeader& header) override {
    if (!has_header_) {
      const Io io = read_header();
      if (io != Io::kMoved) return io;
    }
    header = header_;
    return Io::kMoved;
  }

  Io try_recv(Incoming& incoming) override {
    FrameHeader header;
    const Io seen = peek(header);
    if (seen != Io::kMoved) return seen;
    const uint64_t before = incoming.received_bytes;
    const uint64_t stop = std::min<uint64_t>(header_.size_bytes, before + kTcpCallBytes);
    take_buffered(incoming);
    Io io = Io::kMoved;
    while (io == Io::kMoved && incoming.received_bytes < stop)
      io = incoming.sink.reduces() ? read_and_reduce(incoming) : read_into_target(incoming, stop);
    if (incoming.received_bytes == header_.size_bytes) {
      incoming.done = true;
      has_header_ = false;
      return Io::kMoved;
    }
    return incoming.received_bytes > before ? Io::kMoved : io;
  }

  void hang_up() noexcept override { connection_.hang_up(); }

 private:
  Io read_header() noexcept {
    if (refused_) return Io::kClosed;
    while (buffer_.size() < kHeaderBytes) {
      // The payload after this header is then aligned, so it can be reduced in place.
      std::array<iovec, 1> part = {buffer_.room(kReadAheadBytes, kAlignment - kHeaderBytes)};
      std::size_t size = 0;
      const Io io = connection_.stream().read(part, &size);
      if (io != Io::kMoved) return io;
      buffer_.grow(size);
    }
    std::memcpy(&header_, buffer_.data(), kHeaderBytes);
    buffer_.drop(kHeaderBytes);
    if (header_.size_bytes > kMaxTcpFrameBytes) return refuse();
    has_header_ = true;
    return Io::kMoved;
  }

  // When reducing, an incomplete element stays in the buffer until the rest of it has arrived.
  void take_buffered(Incoming& incoming) {
    const uint64_t left = header_.size_bytes - incoming.received_bytes;
    std::size_t size = std::min<uint64_t>(buffer_.size(), left);
    if (incoming.sink.reduces()) {
      size = incoming.sink.takeable(size);
      if (size > 0) buffer_.align(incoming.sink.element_size);
    }
    if (size == 0) return;
    incoming.take(buffer_.data(), size);
    buffer_.drop(size);
  }

  // Reads the payload directly into its target. The buffer, which is empty, takes what follows the
  // frame.
  Io read_into_target(Incoming& incoming, uint64_t stop) noexcept {
    const std::size_t wanted = stop - incoming.received_bytes;
    std::array<iovec, 2> parts = {
        iovec{.iov_base = incoming.target + incoming.received_bytes, .iov_len = wanted},
        buffer_.room(kReadAheadBytes, kAlignment - kHeaderBytes)};
    const bool is_last = incoming.received_bytes + wanted == header_.size_bytes;
    std::size_t size = 0;
    const Io io = connection_.stream().read(std::span(parts).first(is_last ? 2 : 1), &size);
    if (io != Io::kMoved) return io;
    incoming.received_bytes += std::min(size, wanted);
    if (size > wanted) buffer_.grow(size - wanted);
    return Io::kMoved;
  }

  Io read_and_reduce(Incoming& incoming) {
    buffer_.align(incoming.sink.element_size);  // now, while it holds less than an element
    const uint64_t left = header_.size_bytes - incoming.received_bytes;
    const std::size_t wanted = std::min<uint64_t>(left, kReducePieceBytes) + kReadAheadBytes;
    std::array<iovec, 1> part = {buffer_.room(wanted - buffer_.size(), 0)};
    std::size_t size = 0;
    const Io io = connection_.stream().read(part, &size);
    if (io != Io::kMoved) return io;
    buffer_.grow(size);
    take_buffered(incoming);
    return Io::kMoved;
  }

  Io refuse() noexcept {
    log(LogLevel::kError, "frame_too_large",
        "direction=receive size_bytes=" + std::to_string(header_.size_bytes));
    refused_ = true;
    connection_.hang_up();
    return Io::kClosed;
  }

  Connection connection_;
  ReadBuffer buffer_;
  FrameHeader header_;  // valid if has_header_
  bool has_header_ = false;
  bool refused_ = false;  // a size was wrong, so the start of the next frame is unknown
};

}  // namespace

std::unique_ptr<SendChannel> make_tcp_sender(std::unique_ptr<Stream> stream, Poller& poller) {
  return std::make_unique<TcpSender>(std::move(stream), poller);
}

std::unique_ptr<RecvChannel> make_tcp_receiver(std::unique_ptr<Stream> stream, Poller& poller) {
  return std::make_unique<TcpReceiver>(std::move(stream), poller);
}

}  // namespace fastgpu
