#include "control/message.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>

#include "base/text.h"

namespace fastgpu {
namespace {

constexpr uint32_t kMagic = 0x34474746;  // "FGG4": the protocol's name and version

// The fixed part. `op` and the message text follow.
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
  int64_t value;  // failure.sequence or, of kDeviceSegment, size_bytes
  uint32_t text_size;
  uint32_t generation;
};
static_assert(sizeof(WireMessage) == 48);
static_assert(sizeof(WireMessage) + kMaxOpBytes + kMaxTextBytes <= kMaxControlBytes);
static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

bool is_possible(const WireMessage& wire, std::size_t size) {
  return wire.magic == kMagic && wire.kind >= static_cast<uint8_t>(ControlKind::kHello) &&
         wire.kind <= static_cast<uint8_t>(ControlKind::kDeviceSegmentMapped) &&
         wire.failure_kind <= static_cast<uint8_t>(kLastErrorKind) && wire.op_size <= kMaxOpBytes &&
         wire.text_size <= kMaxTextBytes && size == sizeof(wire) + wire.op_size + wire.text_size;
}

}  // namespace

int ControlMessage::lane() const {
  constexpr auto kMost = static_cast<uint32_t>(std::numeric_limits<int>::max());
  return static_cast<int>(std::min(number, kMost));
}

ControlMessage message_to(const PairKey& pair, ControlKind kind, uint32_t number) {
  ControlMessage message;
  message.kind = kind;
  message.communicator = pair.member.communicator;
  message.generation = pair.member.generation;
  message.from = pair.member.rank;
  message.to = pair.peer;
  message.number = number;
  return message;
}

std::vector<std::byte> encode(const ControlMessage& message) {
  const std::string_view op = cut(message.failure.op, kMaxOpBytes);
  const std::string_view text = cut(message.failure.message, kMaxTextBytes);
  WireMessage wire{};
  wire.magic = kMagic;
  wire.kind = static_cast<uint8_t>(message.kind);
  wire.failure_kind = static_cast<uint8_t>(message.failure.kind);
  wire.op_size = static_cast<uint16_t>(op.size());
  wire.communicator = message.communicator;
  wire.generation = message.generation;
  wire.from = message.from;
  wire.to = message.to;
  wire.number = message.number;
  wire.failure_peer = message.failure.peer;
  wire.value = message.kind == ControlKind::kDeviceSegment
                   ? static_cast<int64_t>(message.size_bytes)
                   : message.failure.sequence;
  wire.text_size = static_cast<uint32_t>(text.size());
  std::vector<std::byte> bytes(sizeof(wire) + op.size() + text.size());
  std::memcpy(bytes.data(), &wire, sizeof(wire));
  std::memcpy(bytes.data() + sizeof(wire), op.data(), op.size());
  std::memcpy(bytes.data() + sizeof(wire) + op.size(), text.data(), text.size());
  return bytes;
}

ControlMessage decode(std::span<const std::byte> bytes) {
  WireMessage wire{};
  if (bytes.size() >= sizeof(wire)) std::memcpy(&wire, bytes.data(), sizeof(wire));
  if (!is_possible(wire, bytes.size())) {
    raise_violation("its bytes are not a control message");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof(wire),
                              bytes.size() - sizeof(wire));
  ControlMessage message;
  message.kind = static_cast<ControlKind>(wire.kind);
  message.communicator = wire.communicator;
  message.generation = wire.generation;
  message.from = wire.from;
  message.to = wire.to;
  message.number = wire.number;
  message.failure.kind = static_cast<ErrorKind>(wire.failure_kind);
  message.failure.peer = wire.failure_peer;
  if (message.kind == ControlKind::kDeviceSegment) {
    message.size_bytes = static_cast<uint64_t>(wire.value);
  } else {
    message.failure.sequence = wire.value;
  }
  message.failure.op = valid_utf8(text.substr(0, wire.op_size));
  message.failure.message = valid_utf8(text.substr(wire.op_size));
  return message;
}

void raise_violation(const std::string& what) {
  raise(ErrorKind::kPeerLost,
        "it broke the control protocol: " + what +
            "; check that every rank runs the same version of fastgpu_comm, and that no other "
            "program connects to its port");
}

}  // namespace fastgpu
