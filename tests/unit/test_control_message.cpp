// Encoding and decoding of control messages: every field at its limits and beyond, and every size.
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "control/message.h"

namespace fastgpu {
namespace {

using Bytes = std::vector<std::byte>;

// Offsets in the message, from docs/wire.md.
constexpr std::size_t kMagicAt = 0;
constexpr std::size_t kKindAt = 4;
constexpr std::size_t kFailureKindAt = 5;
constexpr std::size_t kOpSizeAt = 6;
constexpr std::size_t kTextSizeAt = 40;
constexpr std::size_t kFixedBytes = 48;

ControlMessage example() {
  ControlMessage message;
  message.kind = ControlKind::kFail;
  message.communicator = 0x0123456789abcdef;
  message.from = 1;
  message.to = 0;
  message.number = 0;
  message.failure.kind = ErrorKind::kPeerLost;
  message.failure.peer = 2;
  message.failure.sequence = 7;
  message.failure.op = "all_reduce";
  message.failure.message = "rank 2 was lost";
  return message;
}

template <typename Value>
Bytes with(Bytes bytes, std::size_t offset, Value value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
  return bytes;
}

void check_same(const ControlMessage& left, const ControlMessage& right) {
  CHECK(left.kind == right.kind);
  CHECK_EQ(left.communicator, right.communicator);
  CHECK_EQ(left.generation, right.generation);
  CHECK_EQ(left.from, right.from);
  CHECK_EQ(left.to, right.to);
  CHECK_EQ(left.number, right.number);
  CHECK(left.failure.kind == right.failure.kind);
  CHECK_EQ(left.failure.peer, right.failure.peer);
  CHECK_EQ(left.failure.sequence, right.failure.sequence);
  CHECK_EQ(left.failure.op, right.failure.op);
  CHECK_EQ(left.failure.message, right.failure.message);
}

void check_refused(const Bytes& bytes) {
  CHECK_THROWS(decode(bytes), PeerLostError, "not a control message");
}

// The example of docs/wire.md, without the length that precedes it over TCP.
TEST(the_bytes_are_those_of_wire_md) {
  const Bytes bytes = encode(example());
  const std::string wire(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string expected(
      "\x46\x47\x47\x34\x07\x01\x0a\x00\xef\xcd\xab\x89\x67\x45\x23\x01"
      "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00"
      "\x07\x00\x00\x00\x00\x00\x00\x00\x0f\x00\x00\x00\x00\x00\x00\x00"
      "all_reducerank 2 was lost",
      73);
  CHECK_EQ(wire, expected);
}

TEST(every_field_survives_at_its_limits) {
  ControlMessage message = example();
  check_same(decode(encode(message)), message);
  for (int kind = 1; kind <= 10; ++kind) {
    if (kind == 9) continue;  // it has a size in place of a sequence
    for (const int failure_kind : {0, 1, 2, 3, 4, 5, 6, 7}) {
      message.kind = static_cast<ControlKind>(kind);
      message.failure.kind = static_cast<ErrorKind>(failure_kind);
      check_same(decode(encode(message)), message);
    }
  }
  for (const int number :
       {std::numeric_limits<int>::min(), -1, 0, std::numeric_limits<int>::max()}) {
    message.from = message.to = message.failure.peer = number;
    message.number = message.generation = static_cast<uint32_t>(number);
    message.communicator = static_cast<uint64_t>(number);
    message.failure.sequence =
        number < 0 ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
    check_same(decode(encode(message)), message);
  }
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, kMaxOpBytes}) {
    message.failure.op = std::string(size, 'o');
    message.failure.message = std::string(size == kMaxOpBytes ? kMaxTextBytes : size, 't');
    check_same(decode(encode(message)), message);
  }
}

TEST(the_size_of_device_memory_survives) {
  ControlMessage message = example();
  message.kind = ControlKind::kDeviceSegment;
  for (const uint64_t size_bytes : {uint64_t{0}, uint64_t{1} << 40, UINT64_MAX}) {
    message.size_bytes = size_bytes;
    const ControlMessage decoded = decode(encode(message));
    CHECK(decoded.kind == ControlKind::kDeviceSegment);
    CHECK_EQ(decoded.size_bytes, size_bytes);
  }
}

TEST(longer_text_is_cut) {
  ControlMessage message = example();
  message.failure.op = std::string(kMaxOpBytes + 1, 'o');
  message.failure.message = std::string(100'000, 't');
  const Bytes bytes = encode(message);
  CHECK_EQ(bytes.size(), kFixedBytes + kMaxOpBytes + kMaxTextBytes);
  CHECK(bytes.size() <= kMaxControlBytes);
  const ControlMessage decoded = decode(bytes);
  CHECK_EQ(decoded.failure.op, std::string(kMaxOpBytes, 'o'));
  CHECK_EQ(decoded.failure.message, std::string(kMaxTextBytes, 't'));
}

TEST(a_cut_never_splits_a_character) {
  for (const std::string character : {"\u00e9", "\u20ac", "\U0001F600"}) {
    for (std::size_t before = 0; before < 4; ++before) {
      ControlMessage message = example();
      message.failure.message.assign(kMaxTextBytes - before, 't');
      message.failure.message.append(character).append(character);
      const std::string text = decode(encode(message)).failure.message;
      const std::size_t whole = before / character.size() * character.size();
      CHECK_EQ(text.size(), kMaxTextBytes - before + whole);
      CHECK(text.find('?') == std::string::npos);
    }
  }
}

TEST(every_truncation_and_every_longer_message_is_refused) {
  const Bytes whole = encode(example());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    check_refused({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  check_refused(longer);
}

TEST(every_field_beyond_its_limits_is_refused) {
  const Bytes good = encode(example());
  for (std::size_t at = kMagicAt; at < kKindAt; ++at) {
    check_refused(with(good, at, uint8_t{0xff}));
  }
  for (const int kind : {0, 11, 128, 255}) {
    check_refused(with(good, kKindAt, static_cast<uint8_t>(kind)));
  }
  for (const int kind : {8, 128, 255}) {
    check_refused(with(good, kFailureKindAt, static_cast<uint8_t>(kind)));
  }
  for (const int size : {0, 9, 11, 64, 65, 65535}) {
    check_refused(with(good, kOpSizeAt, static_cast<uint16_t>(size)));
  }
  for (const uint32_t size : {0U, 14U, 16U, 1500U, 1501U, 0xffffffffU}) {
    check_refused(with(good, kTextSizeAt, size));
  }
}

TEST(sizes_beyond_their_limits_are_refused_even_if_the_bytes_are_there) {
  ControlMessage message = example();
  message.failure.op = message.failure.message = "";
  Bytes bytes = with(encode(message), kOpSizeAt, static_cast<uint16_t>(kMaxOpBytes + 1));
  bytes.resize(bytes.size() + kMaxOpBytes + 1, std::byte{'o'});
  check_refused(bytes);
  bytes = with(encode(message), kTextSizeAt, static_cast<uint32_t>(kMaxTextBytes + 1));
  bytes.resize(bytes.size() + kMaxTextBytes + 1, std::byte{'t'});
  check_refused(bytes);
}

TEST(text_that_is_not_utf8_becomes_readable) {
  const auto received = [](const std::string& text) {
    ControlMessage message = example();
    message.failure.message = text;
    return decode(encode(message)).failure.message;
  };
  CHECK_EQ(received("r\u00e9duire \u20ac \U0001F600"), "r\u00e9duire \u20ac \U0001F600");
  CHECK_EQ(received("\xff\xfe lost"), "?? lost");
  CHECK_EQ(received("a\x80z"), "a?z");  // a continuation without its start
  CHECK_EQ(received("a\xc3"), "a?");    // ends within a character
  CHECK_EQ(received("a\xe2\x82z"), "a??z");
  CHECK_EQ(received("\xc0\xaf"), "??");            // longer than needed
  CHECK_EQ(received("\xed\xa0\x80"), "???");       // a surrogate
  CHECK_EQ(received("\xf4\x90\x80\x80"), "????");  // beyond the last character
  CHECK_EQ(received("\xf8\x88\x80\x80\x80"), "?????");
}

TEST(random_bytes_are_refused_or_within_the_limits) {
  std::mt19937 random(1);  // NOLINT(bugprone-random-generator-seed): the same bytes in every run
  const Bytes good = encode(example());
  for (int round = 0; round < 20'000; ++round) {
    Bytes bytes = good;
    for (int change = 0; change < 4; ++change) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    try {
      const ControlMessage message = decode(bytes);
      CHECK(message.failure.op.size() <= kMaxOpBytes);
      CHECK(message.failure.message.size() <= kMaxTextBytes);
    } catch (const PeerLostError&) {
      continue;
    }
  }
}

}  // namespace
}  // namespace fastgpu
