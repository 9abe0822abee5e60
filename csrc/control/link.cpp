#include "control/link.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace fastgpu {
namespace {

constexpr uint32_t kMagic = 0x31474746;  // "FGG1": the protocol's name and version
constexpr std::size_t kMaxText = 1500;
constexpr std::size_t kMaxMessage = 2048;

// The fixed part, little-endian as the machines it runs on; op and message text follow.
struct WireMessage {
  uint32_t magic;
  uint8_t kind;
  uint8_t failure_kind;
  uint16_t op_size;
  uint64_t communicator;
  int32_t from;
  int32_t to;
  uint32_t number;
  int32_t failure_peer;
  int64_t failure_sequence;
  uint32_t text_size;
  uint32_t reserved;
};
static_assert(sizeof(WireMessage) == 48);

std::vector<std::byte> encode(const ControlMessage& message) {
  const std::string op = message.failure.op.substr(0, 64);
  const std::string text = message.failure.message.substr(0, kMaxText);
  WireMessage wire{};
  wire.magic = kMagic;
  wire.kind = static_cast<uint8_t>(message.kind);
  wire.failure_kind = static_cast<uint8_t>(message.failure.kind);
  wire.op_size = static_cast<uint16_t>(op.size());
  wire.communicator = message.communicator;
  wire.from = message.from;
  wire.to = message.to;
  wire.number = message.number;
  wire.failure_peer = message.failure.peer;
  wire.failure_sequence = message.failure.sequence;
  wire.text_size = static_cast<uint32_t>(text.size());
  std::vector<std::byte> bytes(sizeof(wire) + op.size() + text.size());
  std::memcpy(bytes.data(), &wire, sizeof(wire));
  std::memcpy(bytes.data() + sizeof(wire), op.data(), op.size());
  std::memcpy(bytes.data() + sizeof(wire) + op.size(), text.data(), text.size());
  return bytes;
}

[[noreturn]] void raise_garbage() {
  raise(ErrorKind::kPeerLost,
        "a connection sent bytes that are no fastgpu control message; is another program, or "
        "another version of fastgpu_comm, using this port?");
}

void decode(const std::vector<std::byte>& bytes, ControlMessage& message) {
  WireMessage wire;
  if (bytes.size() < sizeof(wire)) raise_garbage();
  std::memcpy(&wire, bytes.data(), sizeof(wire));
  if (wire.magic != kMagic || wire.kind < static_cast<uint8_t>(ControlKind::kHello) ||
      wire.kind > static_cast<uint8_t>(ControlKind::kProbe) ||
      wire.failure_kind > static_cast<uint8_t>(ErrorKind::kRendezvous) ||
      bytes.size() != sizeof(wire) + wire.op_size + wire.text_size) {
    raise_garbage();
  }
  const char* text = reinterpret_cast<const char*>(bytes.data() + sizeof(wire));
  message.kind = static_cast<ControlKind>(wire.kind);
  message.communicator = wire.communicator;
  message.from = wire.from;
  message.to = wire.to;
  message.number = wire.number;
  message.failure.kind = static_cast<ErrorKind>(wire.failure_kind);
  message.failure.peer = wire.failure_peer;
  message.failure.sequence = wire.failure_sequence;
  message.failure.op.assign(text, wire.op_size);
  message.failure.message.assign(text + wire.op_size, wire.text_size);
}

}  // namespace

void ControlLink::send(ControlMessage message) {
  Queued queued;
  queued.bytes = encode(message);
  if (!passes_descriptors_) {
    const auto size = static_cast<uint32_t>(queued.bytes.size());
    std::vector<std::byte> framed(sizeof(size) + size);
    std::memcpy(framed.data(), &size, sizeof(size));
    std::memcpy(framed.data() + sizeof(size), queued.bytes.data(), size);
    queued.bytes = std::move(framed);
  }
  queued.descriptors = std::move(message.descriptors);
  outbox_.push_back(std::move(queued));
  flush();
}

void ControlLink::flush() {
  while (!outbox_.empty() && send_front()) outbox_.pop_front();
}

bool ControlLink::send_front() {
  Queued& front = outbox_.front();
  if (passes_descriptors_) {
    std::vector<int> descriptors;
    descriptors.reserve(front.descriptors.size());
    for (const UniqueFd& fd : front.descriptors) descriptors.push_back(fd.get());
    return send_message(socket_.get(), front.bytes, descriptors);
  }
  while (front.sent < front.bytes.size()) {
    const ssize_t sent = ::send(socket_.get(), front.bytes.data() + front.sent,
                                front.bytes.size() - front.sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      // A connect under way looks like a full socket: the message leaves when it stands.
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN) return false;
      raise_system(ErrorKind::kPeerLost, "the control connection broke", errno);
    }
    front.sent += static_cast<std::size_t>(sent);
  }
  return true;
}

Received ControlLink::recv(ControlMessage& message) {
  Message packet;
  Received received;
  if (passes_descriptors_) {
    received = recv_message(socket_.get(), packet);
  } else {
    received = recv_stream(packet.bytes);
  }
  if (received != Received::kMessage) return received;
  decode(packet.bytes, message);
  message.descriptors = std::move(packet.descriptors);
  return received;
}

// Reads the length, then exactly that many bytes and none of what follows: after a kStream message
// the socket is a channel's.
Received ControlLink::recv_stream(std::vector<std::byte>& bytes) {
  for (;;) {
    uint32_t size = 0;
    std::size_t wanted = sizeof(size);
    if (partial_.size() >= sizeof(size)) {
      std::memcpy(&size, partial_.data(), sizeof(size));
      if (size > kMaxMessage) raise_garbage();
      wanted += size;
      if (partial_.size() == wanted) break;
    }
    const std::size_t had = partial_.size();
    partial_.resize(wanted);
    const ssize_t got = ::recv(socket_.get(), partial_.data() + had, wanted - had, MSG_DONTWAIT);
    partial_.resize(had + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (got == 0) return Received::kClosed;
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN) return Received::kNothing;
      return Received::kClosed;
    }
  }
  bytes.assign(partial_.begin() + sizeof(uint32_t), partial_.end());
  partial_.clear();
  return Received::kMessage;
}

}  // namespace fastgpu
