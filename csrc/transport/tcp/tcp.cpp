#include "transport/tcp/tcp.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "base/log.h"
#include "transport/tcp/send_buffer.h"

namespace fastgpu {
namespace {

// The header travels as it lies in memory (docs/wire.md).
static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

constexpr std::size_t kHeaderBytes = sizeof(FrameHeader);
// What one call moves at most, so that an engine serves its other channels in between.
constexpr std::size_t kCallBytes = 1 << 20;
// How far a read goes beyond what is wanted: whole small frames, but little of a large payload,
// which would be copied once more on its way to the target.
constexpr std::size_t kReadAheadBytes = 8 << 10;
// Payloads to reduce are read in pieces that are still in the L2 cache when they are reduced.
constexpr std::size_t kStageBytes = 64 << 10;
constexpr std::size_t kBufferBytes = kStageBytes + kReadAheadBytes;
constexpr std::size_t kAlignment = 64;

// The connected socket of a channel, watched while the channel lives. The descriptor is closed only
// by the destructor, so hang_up may come from any thread before it.
class Connection {
 public:
  Connection(UniqueFd socket, Poller& poller) : socket_(std::move(socket)), poller_(poller) {
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    poller_.add(socket_.get());
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { poller_.remove(socket_.get()); }

  // Both directions: the peer sees the end of the stream, and this side's poller wakes.
  void hang_up() noexcept {
    hung_up_.store(true, std::memory_order_release);
    ::shutdown(socket_.get(), SHUT_RDWR);
  }
  bool hung_up() const noexcept { return hung_up_.load(std::memory_order_acquire); }
  int socket() const noexcept { return socket_.get(); }

  // Reads what there is into the parts: the bytes read in *size when kMoved.
  Io read(std::span<iovec> parts, std::size_t* size) noexcept {
    for (;;) {
      const ssize_t got = ::readv(socket_.get(), parts.data(), static_cast<int>(parts.size()));
      if (got > 0) {
        *size = static_cast<std::size_t>(got);
        return Io::kMoved;
      }
      if (got < 0 && errno == EINTR) continue;
      return got < 0 && errno == EAGAIN ? Io::kBlocked : Io::kClosed;
    }
  }

  Io write(std::span<iovec> parts, std::size_t* size) noexcept {
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    for (;;) {
      const ssize_t put = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (put >= 0) {
        *size = static_cast<std::size_t>(put);
        return Io::kMoved;
      }
      if (errno == EINTR) continue;
      return errno == EAGAIN && !peer_ended() ? Io::kBlocked : Io::kClosed;
    }
  }

 private:
  // A receiver never writes, so all that a sender can read is that the stream has ended. Without
  // this a receiver that hung up with a full window would block its sender for ever.
  bool peer_ended() const noexcept {
    std::byte unused{};
    const ssize_t got = ::recv(socket_.get(), &unused, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
  }

  UniqueFd socket_;
  Poller& poller_;
  std::atomic<bool> hung_up_ = false;
};

class TcpSender final : public SendChannel {
 public:
  TcpSender(UniqueFd socket, Poller& poller) : connection_(std::move(socket), poller) {}

  Io try_send(Outgoing& frame) override {
    if (closed_ || connection_.hung_up()) return Io::kClosed;
    if (frame.header.size_bytes > kMaxTcpFrameBytes) return refuse(frame.header.size_bytes);
    const uint64_t total = kHeaderBytes + frame.header.size_bytes;
    const uint64_t stop = std::min<uint64_t>(total, frame.progress + kCallBytes);
    bool moved = false;
    while (frame.progress < stop) {
      std::size_t size = 0;
      const Io io = write_to(frame, stop, &size);
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
  // Writes the frame's bytes [progress, stop), the header's first.
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
    return connection_.write(std::span(parts).first(count), size);
  }

  Io refuse(uint64_t size_bytes) noexcept {
    log(LogLevel::kError, "frame_too_large",
        "direction=send size_bytes=" + std::to_string(size_bytes));
    closed_ = true;
    connection_.hang_up();
    return Io::kClosed;
  }

  Connection connection_;
  TcpSendBuffer buffer_{connection_.socket()};
  bool closed_ = false;
};

// Bytes that were read and not yet taken: [begin_, end_) of an aligned block.
class ReadBuffer {
 public:
  const std::byte* data() const noexcept { return block_.get() + begin_; }
  std::size_t size() const noexcept { return end_ - begin_; }
  void drop(std::size_t size) noexcept { begin_ += size; }
  void grow(std::size_t size) noexcept { end_ += size; }

  // Room for `wanted` bytes behind those held, which are moved to `offset` if need be.
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
  TcpReceiver(UniqueFd socket, Poller& poller) : connection_(std::move(socket), poller) {}

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
    const uint64_t stop = std::min<uint64_t>(header_.size_bytes, before + kCallBytes);
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
      // A payload that follows its header begins at an aligned place, ready to be reduced.
      std::array<iovec, 1> part = {buffer_.room(kReadAheadBytes, kAlignment - kHeaderBytes)};
      std::size_t size = 0;
      const Io io = connection_.read(part, &size);
      if (io != Io::kMoved) return io;
      buffer_.grow(size);
    }
    std::memcpy(&header_, buffer_.data(), kHeaderBytes);
    buffer_.drop(kHeaderBytes);
    if (header_.size_bytes > kMaxTcpFrameBytes) return refuse();
    has_header_ = true;
    return Io::kMoved;
  }

  // Elements that came in part stay in the buffer until the rest has come.
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

  // Straight to where it belongs; only what follows the frame goes to the buffer, which is empty.
  Io read_into_target(Incoming& incoming, uint64_t stop) noexcept {
    const std::size_t wanted = stop - incoming.received_bytes;
    std::array<iovec, 2> parts = {
        iovec{.iov_base = incoming.target + incoming.received_bytes, .iov_len = wanted},
        buffer_.room(kReadAheadBytes, kAlignment - kHeaderBytes)};
    const bool is_last = incoming.received_bytes + wanted == header_.size_bytes;
    std::size_t size = 0;
    const Io io = connection_.read(std::span(parts).first(is_last ? 2 : 1), &size);
    if (io != Io::kMoved) return io;
    incoming.received_bytes += std::min(size, wanted);
    if (size > wanted) buffer_.grow(size - wanted);
    return Io::kMoved;
  }

  Io read_and_reduce(Incoming& incoming) {
    buffer_.align(incoming.sink.element_size);  // now, while it holds less than an element
    const uint64_t left = header_.size_bytes - incoming.received_bytes;
    const std::size_t wanted = std::min<uint64_t>(left, kStageBytes) + kReadAheadBytes;
    std::array<iovec, 1> part = {buffer_.room(wanted - buffer_.size(), 0)};
    std::size_t size = 0;
    const Io io = connection_.read(part, &size);
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
  FrameHeader header_;  // of the frame being taken, if has_header_
  bool has_header_ = false;
  bool refused_ = false;  // what follows on the stream has no known borders
};

}  // namespace

std::unique_ptr<SendChannel> make_tcp_sender(UniqueFd socket, Poller& poller) {
  return std::make_unique<TcpSender>(std::move(socket), poller);
}

std::unique_ptr<RecvChannel> make_tcp_receiver(UniqueFd socket, Poller& poller) {
  return std::make_unique<TcpReceiver>(std::move(socket), poller);
}

}  // namespace fastgpu
