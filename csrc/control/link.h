// One connection for control messages. Over a unix socket a message is one packet, which may carry
// descriptors. Over a stream it is a length and that many bytes.
//
// Ownership: the link owns its socket or stream. Threading: one thread at a time.
// Invariants:
// 1. Messages leave in the order of send().
// 2. receive() takes exactly one message and reads no byte after it: after kStream, the stream
//    belongs to a channel.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "control/message.h"
#include "transport/socket/socket.h"
#include "transport/socket/stream.h"

namespace fastgpu {

class Link {
 public:
  Link() = default;  // not connected
  explicit Link(UniqueFd unix_socket) : socket_(std::move(unix_socket)) {}
  explicit Link(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}
  Link(UniqueFd socket, bool is_unix)
      : Link(is_unix ? Link(std::move(socket)) : Link(make_tcp_stream(std::move(socket)))) {}

  bool is_connected() const noexcept { return socket_ || stream_ != nullptr; }
  bool is_unix() const noexcept { return static_cast<bool>(socket_); }
  // To watch for input and output; -1 if not connected.
  int fd() const noexcept { return stream_ != nullptr ? stream_->fd() : socket_.get(); }
  // The process at the other end of a unix socket; else 0.
  pid_t peer_process() const noexcept { return socket_ ? process_behind(socket_.get()) : 0; }

  // Adds the message to the queue.
  void queue(ControlMessage message);
  // The same, and sends as much of the queue as the socket takes now. Raises PeerLostError if the
  // connection is broken.
  void send(ControlMessage message);
  // Sends as much of the queue as the socket takes now; raises like send().
  void flush();
  bool all_sent() const noexcept { return outbox_.empty(); }

  // Raises PeerLostError for bytes that are not a control message, and OutOfResourcesError if this
  // process cannot take the descriptors of a message.
  Received receive(ControlMessage& message);

  // Hands the stream over, for a channel.
  std::unique_ptr<Stream> release_stream() noexcept { return std::move(stream_); }

 private:
  struct Queued {
    std::vector<std::byte> bytes;  // the length, then the message
    std::size_t sent = 0;
    std::vector<UniqueFd> descriptors;
  };

  bool send_packet(const Queued& queued);
  bool send_bytes(Queued& queued);
  Received receive_bytes(ControlMessage& message);

  UniqueFd socket_;                 // unix
  std::unique_ptr<Stream> stream_;  // else
  std::deque<Queued> outbox_;
  std::vector<std::byte> partial_;  // stream: the length and bytes of an incomplete message
};

// Closes a connection that a peer has opened, and tells the peer why: a kFail takes the place of
// the welcome. The message has no subject; the peer puts "rank 3 " before it.
void refuse(Link link, const Failure& why) noexcept;

}  // namespace fastgpu
