// Control messages between two processes, beside the data: who connects, what is shared, who
// leaves. Over unix sockets a message is one packet and may carry descriptors; over TCP it is a
// length and that many bytes. docs/wire.md has the layout. Ownership: the link owns its socket.
// Threading: one thread (the connector's).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "transport/socket/socket.h"

namespace fastgpu {

enum class ControlKind : uint8_t {
  kHello = 1,    // dialler -> acceptor: opens a link (unix: with its doorbell)
  kWelcome = 2,  // the answer (unix: with the acceptor's doorbell)
  kRing = 3,     // unix: the ring of lane `number`
  kStream = 4,   // TCP: first on a connection of its own that then carries lane `number`
  kSegment = 5,  // unix: the symmetric segment `number`
  kLeave = 6,    // the sender leaves the group, having opened `number` channels to the receiver
  kFail = 7,     // the sender's communicator failed, as `failure` says
  kProbe = 8,  // unix: can you map my memory? The answer is kProbe with the word in it as `number`
};

struct ControlMessage {
  ControlKind kind = ControlKind::kHello;
  uint64_t communicator = 0;
  int from = kNoRank;  // ranks in the communicator
  int to = kNoRank;
  uint32_t number = 0;
  Failure failure;  // of kFail: kind, peer, op, sequence and message
  std::vector<UniqueFd> descriptors;
};

class ControlLink {
 public:
  ControlLink() = default;
  ControlLink(UniqueFd socket, bool passes_descriptors)
      : socket_(std::move(socket)), passes_descriptors_(passes_descriptors) {}

  int fd() const noexcept { return socket_.get(); }
  UniqueFd release() noexcept { return std::move(socket_); }

  // Queues the message behind those that wait, and sends what the socket takes now. Descriptors are
  // consumed. Raises PeerLostError when the peer is gone.
  void send(ControlMessage message);
  void flush();
  bool empty() const noexcept { return outbox_.empty(); }
  // Raises PeerLostError for bytes that are no message.
  Received recv(ControlMessage& message);

 private:
  struct Queued {
    std::vector<std::byte> bytes;
    std::size_t sent = 0;
    std::vector<UniqueFd> descriptors;
  };

  bool send_front();
  Received recv_stream(std::vector<std::byte>& bytes);

  UniqueFd socket_;
  bool passes_descriptors_ = false;
  std::deque<Queued> outbox_;
  std::vector<std::byte> partial_;  // TCP: what has arrived of the next message
};

}  // namespace fastgpu
