// The message frames between this rank and one peer, both ways: which frame leaves next, and what
// an arriving frame means.
//
// Protocol, in each direction (docs/wire.md): a small message leaves at once (kEager) while its
// receiver has budget for it. Every other message is first announced (kRts, request to send). When
// a receive matches it, the receiver answers kCts (clear to send). Then the message leaves in
// pieces (kData). The receiver returns budget as it takes eager messages (kCredit). Messages with
// one tag match receives in the order in which they were sent.
//
// A put leaves in pieces (kPut) in its turn among the messages, and each piece is written straight
// into the receiver's window. So a message that was sent after a put arrives after it.
//
// Invariants:
//  1. A receiver holds at most kEagerBudget bytes of unexpected eager messages: those that no
//     receive has matched.
//  2. A message never waits for budget: without budget it is announced. So a matching receive
//     completes, however many unexpected messages were sent before.
//  3. kCredit opens no channel. When the peer is gone, kCredit and kCts are dropped without an
//     error.
// Ownership: shares the messages until they end. Threading: the polling thread's.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/lane_run.h"
#include "engine/messages/message.h"
#include "engine/messages/window_table.h"
#include "transport/channel.h"

namespace fastgpu {

class PeerStream {
 public:
  static constexpr uint64_t kEagerBytes = 16 * 1024;     // the largest message sent without kRts
  static constexpr uint64_t kEagerBudget = 1024 * 1024;  // of unexpected eager messages
  static constexpr uint64_t kEagerOverhead = 64;  // taken from the budget on top of each payload
  static constexpr uint64_t kPieceBytes = 1024 * 1024;  // of a message or put, in one frame

  // Shared by the streams of one communicator.
  struct Context {
    ChannelSource& channels;
    int lane;                      // the messages' lane
    std::list<MessagePtr> posted;  // receives without a message, in the order posted
    std::function<void(const MessagePtr&)> finish;  // called when a message has moved
    const WindowTable& windows;                     // of this rank
  };

  PeerStream(int peer, Context& context) : peer_(peer), context_(context) {}

  void send(MessagePtr message) { queue_.push_back(std::move(message)); }
  // Gives the receive the first unexpected message with its tag; false if there is none.
  bool take_unexpected(const MessagePtr& recv);
  // Whether a receive from any rank fails once this peer has closed its channel. True if the peer
  // was lost, or if all other peers have left.
  void set_ends_any_source(bool ends) { ends_any_source_ = ends; }

  // Moves what can move. Returns whether anything moved. Raises PeerLostError when a channel that a
  // message needs has closed, and CollectiveMismatchError when dtypes or sizes differ.
  bool poll();
  void for_each_pending(const std::function<void(const MessagePtr&)>& visit) const;

 private:
  enum class Kind : uint8_t { kEager, kRts, kCts, kData, kCredit, kPut };
  struct Header {
    Kind kind = Kind::kEager;
    DType dtype = {};         // kEager and kRts
    uint32_t tag = 0;         // kPut: the window
    uint64_t id = 0;          // the message, numbered by its sender; kPut: the offset in bytes
    uint64_t size_bytes = 0;  // the whole message; kCredit: bytes of budget
  };
  struct Departing {
    Kind kind = Kind::kEager;
    Outgoing frame;
    MessagePtr message;  // whose payload the frame carries; nullptr: none
    std::string_view op() const { return message == nullptr ? "send" : op_of(*message); }
  };
  struct Arriving {
    Header header;
    Incoming incoming;
    MessagePtr message;              // whose payload it is; nullptr: not known yet
    std::vector<std::byte> payload;  // of an unexpected message
    std::shared_ptr<void> window;    // kPut: keeps the target alive
  };
  struct Unexpected {  // no receive has matched it yet
    Header header;
    std::vector<std::byte> payload;
  };

  static FrameHeader pack(const Header& header, uint64_t payload_bytes);
  static Header unpack(const FrameHeader& frame);
  static bool is_control(Kind kind) { return kind == Kind::kCts || kind == Kind::kCredit; }
  // The budget that an eager message takes.
  static uint64_t cost(uint64_t size_bytes) { return size_bytes + kEagerOverhead; }

  bool poll_out();
  bool next_frame();
  void depart(const Header& header, MessagePtr message, const std::byte* payload,
              uint64_t size_bytes);
  void depart_piece_of_put(const MessagePtr& put);
  // Whether the message is the first of cleared_, or of queue_.
  bool is_first_cleared(const MessagePtr& message) const;
  bool is_first_queued(const MessagePtr& message) const;
  void frame_left();
  bool poll_in();
  std::string_view awaits_peer() const;
  void begin_frame(const FrameHeader& frame);
  void begin_put(const FrameHeader& frame);
  void frame_arrived();
  void eager_arrived(Arriving arrived);
  void data_arrived(const Arriving& arrived);
  void check(const MessageOperation& recv, const Header& header) const;
  MessagePtr match(const Header& header);
  void clear_to_send(const Header& header, const MessagePtr& recv);
  void take_payload(const MessagePtr& recv, const Unexpected& message);

  const int peer_;
  Context& context_;
  bool ends_any_source_ = false;

  // Out.
  std::deque<MessagePtr> queue_;  // in the order posted; only a put in front may have begun
  std::map<uint64_t, MessagePtr> awaiting_cts_;          // announced by kRts, by id
  std::deque<std::pair<uint64_t, MessagePtr>> cleared_;  // kCts has arrived, in that order
  std::deque<uint64_t> clearing_;                        // kCts to send, by id
  bool opened_ = false;                                  // the channel was asked for
  std::optional<Departing> departing_;
  uint64_t last_id_ = 0;
  uint64_t budget_ = kEagerBudget;

  // In.
  std::unordered_map<uint32_t, std::list<Unexpected>> unexpected_;  // by tag; none is empty
  std::map<uint64_t, MessagePtr> receiving_;                        // announced and matched, by id
  std::optional<Arriving> arriving_;
  uint64_t owed_ = 0;  // budget to return to the peer with the next kCredit
};

}  // namespace fastgpu
