#include "control/message.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>

namespace fastgpu {
namespace {

constexpr uint32_t kMagic = 0x31474746;  // "FGG1": the protocol's name and version

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
  int64_t failure_sequence;
  uint32_t text_size;
  uint32_t reserved;
};
static_assert(sizeof(WireMessage) == 48);
static_assert(sizeof(WireMessage) + kMaxOpBytes + kMaxTextBytes <= kMaxControlBytes);
static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

std::string_view cut(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return text;
  std::size_t end = limit;
  while (end > 0 && end + 4 > limit && continues_character(text[end])) --end;
  return text.substr(0, end);
}

// The size of the UTF-8 character at the start of `text`; 0 if there is no valid one.
std::size_t character_bytes(std::string_view text) {
  constexpr std::array<uint32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};  // by size
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return 1;
  const auto size = static_cast<std::size_t>(std::countl_one(lead));
  if (size < 2 || size > 4 || size > text.size()) return 0;
  uint32_t code = lead & (0x7fU >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if (!continues_character(text[i])) return 0;
    code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3fU);
  }
  const bool is_surrogate = code >= 0xd800 && code <= 0xdfff;
  return code >= kLeast[size] && code <= 0x10ffff && !is_surrogate ? size : 0;
}

std::string valid_utf8(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const std::size_t size = character_bytes(text);
    if (size == 0) {
      valid += '?';
    } else {
      valid += text.substr(0, size);
    }
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return valid;
}

bool is_possible(const WireMessage& wire, std::size_t size) {
  return wire.magic == kMagic && wire.kind >= static_cast<uint8_t>(ControlKind::kHello) &&
         wire.kind <= static_cast<uint8_t>(ControlKind::kProbe) &&
         wire.failure_kind <= static_cast<uint8_t>(ErrorKind::kRendezvous) &&
         wire.op_size <= kMaxOpBytes && wire.text_size <= kMaxTextBytes &&
         size == sizeof(wire) + wire.op_size + wire.text_size;
}

}  // namespace

std::vector<std::byte> encode(const ControlMessage& message) {
  const std::string_view op = cut(message.failure.op, kMaxOpBytes);
  const std::string_view text = cut(message.failure.message, kMaxTextBytes);
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
  message.from = wire.from;
  message.to = wire.to;
  message.number = wire.number;
  message.failure.kind = static_cast<ErrorKind>(wire.failure_kind);
  message.failure.peer = wire.failure_peer;
  message.failure.sequence = wire.failure_sequence;
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
