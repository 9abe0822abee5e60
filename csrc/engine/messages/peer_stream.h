// The message frames between this rank and one peer, both ways: which frame leaves next, and what
// an arriving frame means.
//
// Protocol, in each direction (docs/wire.md): a small message leaves at once (kEager) while its
// receiver has budget for it. A larger message is first announced (kRts, request to send). When a
// receive matches it, the receiver answers kCts (clear to send). Then the message leaves in pieces
// (kData). The receiver returns budget as it takes messages (kCredit). Messages with one tag match
// receives in the order in which they were sent.
//
// Bounded: a receiver holds at most kMessageBudget headers and kByteBudget bytes of messages that
// no receive has asked for yet. Beyond that the sender waits.
// Ownership: shares the messages until they end. Threading: the polling thread's.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "engine/lane_run.h"
#include "engine/messages/message.h"
#include "transport/channel.h"

namespace fastgpu {

class PeerStream {
 public:
  static constexpr uint64_t kEagerBytes = 16 * 1024;    // the largest message sent without kRts
  static constexpr uint32_t kMessageBudget = 1024;      // unexpected messages
  static constexpr uint64_t kByteBudget = 1024 * 1024;  // payload of unexpected messages
  static constexpr uint64_t kPieceBytes = 1024 * 1024;  // of a message after its kCts, per frame

  // Shared by the streams of one communicator.
  struct Context {
    ChannelSource& channels;
    int lane;                      // the messages' lane
    std::list<MessagePtr> posted;  // receives without a message, in the order posted
    std::function<void(const MessagePtr&)> finish;  // a message has moved
  };

  PeerStream(int peer, Context& context) : peer_(peer), context_(context) {}

  void send(MessagePtr message) { queue_.push_back(std::move(message)); }
  // Gives the receive the first unexpected message with its tag; false if there is none.
  bool take_unexpected(const MessagePtr& recv);
  // Whether a receive from any rank fails once this peer has closed its channel. True if the peer
  // was lost, or if all other peers have left.
  void set_ends_any_source(bool ends) { ends_any_source_ = ends; }

  // Moves what can move. Returns whether anything moved. Raises PeerLostError when a channel that a
  // message needs has closed, and CollectiveMismatchError when sizes differ.
  bool poll();
  void for_each_pending(const std::function<void(const MessagePtr&)>& visit) const;

 private:
  enum class Kind : uint8_t { kEager, kRts, kCts, kData, kCredit };
  struct Header {
    Kind kind = Kind::kEager;
    uint32_t tag = 0;
    uint64_t id = 0;          // the message, numbered by its sender
    uint64_t size_bytes = 0;  // the whole message; kCredit: bytes of budget
    uint32_t count = 0;       // kCredit: messages of budget
  };
  struct Budget {
    uint32_t messages = 0;
    uint64_t bytes = 0;
  };
  struct Departing {
    Outgoing frame;
    MessagePtr message;  // whose payload the frame carries; nullptr: none
  };
  struct Arriving {
    Header header;
    Incoming incoming;
    MessagePtr message;              // whose payload it is; nullptr: not known yet
    std::vector<std::byte> payload;  // of an unexpected message
  };
  struct Unexpected {  // no receive has asked for it yet
    Header header;
    std::vector<std::byte> payload;
  };

  static FrameHeader pack(const Header& header, uint64_t payload_bytes);
  static Header unpack(const FrameHeader& frame);

  bool poll_out();
  bool next_frame();
  void put(const Header& header, MessagePtr message, const std::byte* payload, uint64_t size_bytes);
  void frame_left();
  bool poll_in();
  const char* awaits_peer() const;
  void begin_frame(const FrameHeader& frame);
  void frame_arrived();
  void eager_arrived(Arriving arrived);
  void data_arrived(const Arriving& arrived);
  MessagePtr match(const Header& header);
  void clear_to_send(const Header& header, const MessagePtr& recv);
  void return_budget(const Header& header);

  const int peer_;
  Context& context_;
  bool ends_any_source_ = false;

  // Out.
  std::deque<MessagePtr> queue_;                         // in the order posted, not begun
  std::map<uint64_t, MessagePtr> awaiting_cts_;          // announced by kRts, by id
  std::deque<std::pair<uint64_t, MessagePtr>> cleared_;  // kCts has arrived, in that order
  std::deque<Header> controls_;                          // kCts and kCredit to send
  std::optional<Departing> departing_;
  uint64_t last_id_ = 0;
  Budget budget_{kMessageBudget, kByteBudget};

  // In.
  std::deque<Unexpected> unexpected_;
  std::map<uint64_t, MessagePtr> receiving_;  // announced and matched, by id
  std::optional<Arriving> arriving_;
  Budget owed_;  // taken, but not returned to the peer yet
};

}  // namespace fastgpu
