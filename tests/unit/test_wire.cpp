// The wire format of docs/wire.md, byte by byte: frame headers, keys and messages between two
// ranks. Writers must produce exactly these bytes, and readers accept them.
#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/call.h"
#include "check.h"
#include "engine/messages/message_queue.h"
#include "transport/memory_channel.h"
#include "unit/wire_bytes.h"

namespace fastgpu::test {
namespace {

using Bytes = std::vector<std::byte>;

template <typename Value>
Bytes bytes_of(const Value& value) {
  Bytes bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

TEST(a_frame_header_has_40_bytes) {
  const FrameHeader header{.generation = 0x04030201,
                           .ordinal = 0x08070605,
                           .sequence = 0x100f0e0d0c0b0a09,
                           .size_bytes = 0x1817161514131211,
                           .key = {0x201f1e1d1c1b1a19, 0x2827262524232221}};
  WireBytes expected;
  for (uint8_t byte = 1; byte <= 40; ++byte) expected.u8(byte);
  CHECK_EQ(hex(bytes_of(header)), hex(expected));
}

TEST(a_key_is_the_call_field_by_field) {
  const Call call{.shape = {.collective = Collective::kReduce,
                            .dtype = DType::kBFloat16,
                            .reduce_op = ReduceOp::kMin,
                            .root = 0x0201,
                            .count = 0x0807060504030201,
                            .codec = Codec::kInt4},
                  .algorithm = Algorithm::kTree,
                  .lanes = 16};
  const WireBytes expected =
      WireBytes().u8(4).u8(3).u8(3).u8(3).u8(4).u8(16).u16(0x0201).u64(0x0807060504030201);
  CHECK_EQ(hex(bytes_of(pack(call))), hex(expected));
  const Bytes without_root = bytes_of(pack(Call{.shape = {.collective = Collective::kAllReduce}}));
  CHECK_EQ(hex(std::span(without_root).subspan(6, 2)), "ff ff");
}

template <typename Enum, std::size_t kCount>
void check_numbers(const std::array<const char*, kCount>& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    CHECK_EQ(std::string(name_of(static_cast<Enum>(i))), names[i]);
  }
}

// These numbers travel. A new value goes to the end; a change in between is another version.
TEST(the_numbers_in_a_key_are_fixed) {
  check_numbers<Collective, kCollectiveCount>({"all_reduce", "reduce_scatter", "all_gather",
                                               "broadcast", "reduce", "gather", "scatter",
                                               "all_to_all", "barrier"});
  check_numbers<Algorithm, kAlgorithmCount>(
      {"auto", "direct", "ring", "tree", "halving", "hierarchical"});
  check_numbers<Codec, kCodecCount>({"none", "fp16", "bf16", "int8", "int4", "topk", "1bit"});
  check_numbers<ReduceOp, kReduceOpCount>(
      {"SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM"});
  check_numbers<DType, kDTypeCount>({"float64", "float32", "float16", "bfloat16", "float8_e4m3fn",
                                     "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "int8",
                                     "uint8", "int16", "uint16", "int32", "uint32", "int64",
                                     "uint64", "bool", "complex64", "complex128"});
}

// Rank 0's messages, whose peer, rank 1, is the test: it reads and writes raw frames.
class RawPeer : public ChannelSource {
 public:
  RawPeer() : messages(*this, 2, 0, std::make_shared<FailureLatch>()) {
    std::tie(to_peer_, from_rank_) = make_memory_channel(64, SIZE_MAX);
    std::tie(to_rank_, from_peer_) = make_memory_channel(64, SIZE_MAX);
  }

  SendChannel* sender(int peer, int) override {
    was_asked_for_sender_ = true;
    return peer == 1 ? to_peer_.get() : nullptr;
  }
  RecvChannel* receiver(int peer, int) override { return peer == 1 ? from_peer_.get() : nullptr; }
  bool departed(int) override { return true; }
  uint64_t version() const override { return 1; }

  std::shared_ptr<Work> post(bool is_send, uint32_t tag, Bytes& data) {
    auto message = std::make_shared<MessageOperation>();
    message->peer = 1;
    message->tag = tag;
    message->data = data.data();
    message->size_bytes = data.size();
    message->work = std::make_shared<Work>();
    is_send ? messages.post_send(message) : messages.post_recv(message);
    messages.poll();
    return message->work;
  }

  // The next frame that rank 0 has sent: the header's bytes, and the payload in `payload`.
  std::string take(Bytes* payload = nullptr) {
    FrameHeader header;
    CHECK_EQ(from_rank_->peek(header), Io::kMoved);
    Bytes taken(header.size_bytes);
    Incoming incoming{.target = taken.data(), .size_bytes = taken.size()};
    CHECK_EQ(from_rank_->try_recv(incoming), Io::kMoved);
    CHECK(incoming.done);
    if (payload != nullptr) *payload = std::move(taken);
    return hex(bytes_of(header));
  }

  void put(const WireBytes& header, const Bytes& payload = {}) {
    Outgoing frame{.header = {}, .payload = payload.data()};
    CHECK_EQ(header.bytes().size(), sizeof frame.header);
    std::memcpy(&frame.header, header.bytes().data(), sizeof frame.header);
    CHECK_EQ(to_rank_->try_send(frame), Io::kMoved);
    CHECK(frame.done);
    messages.poll();
  }

  bool was_asked_for_sender() const { return was_asked_for_sender_; }

  MessageQueue messages;

 private:
  bool was_asked_for_sender_ = false;
  std::unique_ptr<SendChannel> to_peer_;
  std::unique_ptr<RecvChannel> from_rank_;
  std::unique_ptr<SendChannel> to_rank_;
  std::unique_ptr<RecvChannel> from_peer_;
};

struct MessageHeader {
  uint64_t id = 0;
  uint64_t payload_bytes = 0;
  uint8_t kind = 0;
  uint32_t tag = 0;
  uint64_t size_bytes = 0;

  WireBytes wire() const { return wire(kind <= 1 ? 9 : 0); }  // uint8, of kEager and kRts
  WireBytes wire(uint8_t dtype) const {
    return WireBytes()
        .u32(0)  // generation
        .u32(0)
        .u64(id)
        .u64(payload_bytes)
        .u8(kind)
        .u8(dtype)
        .u16(0)
        .u32(tag)
        .u64(size_bytes);
  }
};

constexpr uint8_t kEager = 0;
constexpr uint8_t kRts = 1;
constexpr uint8_t kCts = 2;
constexpr uint8_t kData = 3;
constexpr uint8_t kCredit = 4;
constexpr uint8_t kPut = 5;

TEST(messages_are_sent_as_eager_rts_and_data_frames) {
  RawPeer peer;
  Bytes small(5, std::byte{7});
  Bytes payload;
  const auto eager = peer.post(true, 0x04030201, small);
  CHECK_EQ(peer.take(&payload),
           hex(MessageHeader{
               .id = 1, .payload_bytes = 5, .kind = kEager, .tag = 0x04030201, .size_bytes = 5}
                   .wire()));
  CHECK(payload == small);
  CHECK(eager->done());

  Bytes large(20'000, std::byte{9});
  const auto large_send = peer.post(true, 3, large);
  CHECK_EQ(peer.take(),
           hex(MessageHeader{.id = 2, .kind = kRts, .tag = 3, .size_bytes = 20'000}.wire()));
  CHECK(!large_send->done());
  peer.put(MessageHeader{.id = 2, .kind = kCts}.wire());
  CHECK_EQ(peer.take(&payload),
           hex(MessageHeader{
               .id = 2, .payload_bytes = 20'000, .kind = kData, .tag = 3, .size_bytes = 20'000}
                   .wire()));
  CHECK(payload == large);
  CHECK(large_send->done());
}

TEST(messages_are_received_from_the_same_frames) {
  RawPeer peer;
  Bytes small(3);
  const auto eager = peer.post(false, 7, small);
  peer.put(
      MessageHeader{.id = 1, .payload_bytes = 3, .kind = kEager, .tag = 7, .size_bytes = 3}.wire(),
      Bytes(3, std::byte{5}));
  CHECK(eager->done() && eager->ok());
  CHECK(small == Bytes(3, std::byte{5}));

  Bytes large(20'000);
  const auto large_recv = peer.post(false, 8, large);
  peer.put(MessageHeader{.id = 2, .kind = kRts, .tag = 8, .size_bytes = 20'000}.wire());
  CHECK_EQ(peer.take(), hex(MessageHeader{.id = 2, .kind = kCts}.wire()));
  for (const uint64_t piece : {12'000U, 8'000U}) {
    CHECK(!large_recv->done());
    peer.put(
        MessageHeader{.id = 2, .payload_bytes = piece, .kind = kData, .tag = 8, .size_bytes = piece}
            .wire(),
        Bytes(piece, std::byte{6}));
  }
  CHECK(large_recv->done() && large_recv->ok());
  CHECK(large == Bytes(20'000, std::byte{6}));
}

TEST(credit_frames_return_budget) {
  constexpr uint64_t kCost = PeerStream::kEagerBytes + 64;
  RawPeer peer;
  Bytes memory(PeerStream::kEagerBytes);
  const auto eager = [&](uint64_t id) {
    return MessageHeader{.id = id,
                         .payload_bytes = memory.size(),
                         .kind = kEager,
                         .tag = 1,
                         .size_bytes = memory.size()};
  };
  for (uint64_t id = 1; id <= 8; ++id) {
    peer.post(false, 1, memory);
    peer.put(eager(id).wire(), memory);
  }
  CHECK(!peer.was_asked_for_sender());  // for a credit alone no channel is opened
  peer.post(true, 1, memory);
  CHECK_EQ(peer.take(), hex(eager(1).wire()));
  CHECK_EQ(peer.take(), hex(MessageHeader{.kind = kCredit, .size_bytes = 8 * kCost}.wire()));
  // In the other direction, a message beyond the budget is announced.
  uint64_t id = 2;
  for (uint64_t left = PeerStream::kEagerBudget - kCost; left >= kCost; left -= kCost) {
    CHECK(peer.post(true, 1, memory)->done());
    CHECK_EQ(peer.take(), hex(eager(id++).wire()));
  }
  CHECK(!peer.post(true, 1, memory)->done());
  CHECK_EQ(
      peer.take(),
      hex(MessageHeader{.id = id++, .kind = kRts, .tag = 1, .size_bytes = memory.size()}.wire()));
  peer.put(MessageHeader{.kind = kCredit, .size_bytes = kCost}.wire());
  CHECK(peer.post(true, 1, memory)->done());
  CHECK_EQ(peer.take(), hex(eager(id).wire()));
}

TEST(a_put_is_a_frame_with_its_window_and_offset) {
  RawPeer peer;
  Bytes memory(5, std::byte{8});
  Bytes payload;
  const auto put = std::make_shared<MessageOperation>();
  put->peer = 1;
  put->tag = 6;
  put->put_offset_bytes = 0x0102;
  put->data = memory.data();
  put->size_bytes = memory.size();
  put->work = std::make_shared<Work>();
  peer.messages.post_send(put);
  peer.messages.poll();
  const MessageHeader wanted{
      .id = 0x0102, .payload_bytes = 5, .kind = kPut, .tag = 6, .size_bytes = 5};
  CHECK_EQ(peer.take(&payload), hex(wanted.wire(9)));
  CHECK(payload == memory);
}

TEST(a_message_with_an_unknown_dtype_is_refused) {
  for (const uint8_t dtype : {uint8_t{19}, uint8_t{255}}) {
    RawPeer peer;
    Bytes memory(3);
    const auto recv = peer.post(false, 7, memory);
    const MessageHeader header{.id = 1, .payload_bytes = 3, .tag = 7, .size_bytes = 3};
    peer.put(header.wire(dtype), memory);
    CHECK_THROWS(recv->raise_if_failed(), PeerLostError, "rank 1 sent a malformed message");
  }
}

}  // namespace
}  // namespace fastgpu::test
