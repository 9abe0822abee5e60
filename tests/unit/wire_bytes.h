// Bytes as docs/wire.md describes them, written here without the library's own structs, so that a
// change of the format breaks a test. Threading: values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fastgpu::test {

// Little-endian numbers and text, one after another.
class WireBytes {
 public:
  WireBytes& u8(uint8_t value) { return number(value, 1); }
  WireBytes& u16(uint16_t value) { return number(value, 2); }
  WireBytes& u32(uint32_t value) { return number(value, 4); }
  WireBytes& u64(uint64_t value) { return number(value, 8); }
  WireBytes& text(std::string_view text) {
    for (const char c : text) bytes_.push_back(static_cast<std::byte>(c));
    return *this;
  }
  WireBytes& append(std::span<const std::byte> more) {
    for (const std::byte byte : more) bytes_.push_back(byte);
    return *this;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  WireBytes& number(uint64_t value, int size_bytes) {
    for (int i = 0; i < size_bytes; ++i) bytes_.push_back(static_cast<std::byte>(value >> (8 * i)));
    return *this;
  }

  std::vector<std::byte> bytes_;
};

// "01 ff 20", to compare and to show.
inline std::string hex(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    if (!text.empty()) text += ' ';
    text += kDigits[std::to_integer<std::size_t>(byte) >> 4];
    text += kDigits[std::to_integer<std::size_t>(byte) & 15];
  }
  return text;
}
inline std::string hex(const WireBytes& bytes) { return hex(bytes.bytes()); }

enum WireKind : uint8_t {
  kHelloKind = 1,
  kWelcomeKind = 2,
  kRingKind = 3,
  kStreamKind = 4,
  kSegmentKind = 5,
  kLeaveKind = 6,
  kFailKind = 7,
  kProbeKind = 8,
};

// A control message, field by field.
struct WireControl {
  std::string magic = "FGG4";
  uint8_t kind = kHelloKind;
  uint8_t failure_kind = 4;  // aborted
  uint64_t communicator = 0;
  uint32_t generation = 0;
  int from = -1;
  int to = -1;
  uint32_t number = 0;
  int failure_peer = -1;
  int64_t failure_sequence = -1;
  std::string op = {};
  std::string text = {};

  // As over a unix socket.
  std::vector<std::byte> packet() const {
    return WireBytes()
        .text(magic)
        .u8(kind)
        .u8(failure_kind)
        .u16(static_cast<uint16_t>(op.size()))
        .u64(communicator)
        .u32(static_cast<uint32_t>(from))
        .u32(static_cast<uint32_t>(to))
        .u32(number)
        .u32(static_cast<uint32_t>(failure_peer))
        .u64(static_cast<uint64_t>(failure_sequence))
        .u32(static_cast<uint32_t>(text.size()))
        .u32(generation)
        .text(op)
        .text(text)
        .bytes();
  }
  // As over TCP: its length first.
  std::vector<std::byte> stream() const {
    const std::vector<std::byte> bytes = packet();
    return WireBytes().u32(static_cast<uint32_t>(bytes.size())).append(bytes).bytes();
  }
};

}  // namespace fastgpu::test
