// Messages between two ranks, matched by peer and tag, on channels of their own beside the
// collectives, so that neither blocks the other.
//
// Protocol, per peer and direction (docs/wire.md): a small message leaves at once (kEager) while
// its receiver has budget for it; a larger one is offered (kRts), granted when a receive matches
// (kCts), and then sent in pieces (kData). Budget comes back as messages are taken (kCredit).
// Messages of one peer and tag match receives in the order sent; receives in the order posted.
//
// Bounded: a receiver holds at most kMessageBudget headers and kByteBudget bytes per peer that
// nobody has asked for yet; a sender beyond that waits. Threading: post_send, post_recv, fail_with
// and busy from any thread; the rest is the progress thread's.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/engine.h"
#include "engine/lane_run.h"

namespace fastgpu {

// A send or a receive, as its caller gave it.
struct MessageOperation {
  int peer = kNoRank;  // kNoRank: from any rank (receives)
  uint32_t tag = 0;
  std::byte* data = nullptr;  // a send only reads it
  uint64_t size_bytes = 0;
  TimeNs deadline = kNever;
  std::function<void()> epilogue;
  std::shared_ptr<void> keep_alive;
  std::shared_ptr<Work> work;

  uint64_t moved_bytes = 0;  // the progress thread's note
};

class MessageQueue : public Pollable {
 public:
  static constexpr uint64_t kEagerBytes = 16 * 1024;    // the largest message that leaves unasked
  static constexpr uint32_t kMessageBudget = 1024;      // unmatched messages per peer
  static constexpr uint64_t kByteBudget = 1024 * 1024;  // their payload
  static constexpr uint64_t kPieceBytes = 1024 * 1024;  // of a granted message, per frame

  using FailureHandler = std::function<void(Failure&)>;

  MessageQueue(ChannelSource& channels, int world, int lane, FailureHandler on_failure);

  // Raise the latched failure when there is one.
  void post_send(std::shared_ptr<MessageOperation> message);
  void post_recv(std::shared_ptr<MessageOperation> message);
  void fail_with(Failure failure);

  bool poll() noexcept override;
  void expire(TimeNs now) noexcept override;
  bool busy() const noexcept override { return pending_.load() > 0 || requested_.load(); }
  // Messages that arrive unasked are taken in whenever the engine runs, so that their senders go
  // on.
  bool wants_idle_poll() const noexcept override { return busy() || listening_.load(); }
  TimeNs next_deadline() const noexcept override;

  [[noreturn]] static void raise_failure(ErrorKind kind, int peer, const char* op,
                                         std::string text);

 private:
  using Message = std::shared_ptr<MessageOperation>;
  enum class Kind : uint8_t { kEager, kRts, kCts, kData, kCredit };
  struct Header {
    Kind kind = Kind::kEager;
    uint32_t tag = 0;
    uint64_t id = 0;          // of the message, given by its sender
    uint64_t size_bytes = 0;  // of the whole message; kCredit: bytes given back
    uint32_t count = 0;       // kCredit: messages given back
  };
  struct Arrived {  // asked for by nobody yet
    Header header;
    std::vector<std::byte> payload;
  };
  struct Peer {
    // Out.
    std::deque<Message> queue;  // in the order posted, not begun
    std::map<uint64_t, Message> offered;
    std::deque<std::pair<uint64_t, Message>> granted;
    std::deque<Header> controls;
    std::optional<Outgoing> frame;  // on its way
    Message frame_of;               // whose payload it carries; none for controls and offers
    uint64_t next_id = 0;
    uint32_t message_budget = kMessageBudget;
    uint64_t byte_budget = kByteBudget;
    // In.
    std::deque<Arrived> unexpected;
    std::map<uint64_t, Message> receiving;  // granted, by id
    std::optional<Header> head;             // of the frame that is arriving
    Incoming incoming;
    Message into;  // whose it is; none: `arriving`
    std::vector<std::byte> arriving;
    uint32_t owed_messages = 0;
    uint64_t owed_bytes = 0;
  };

  static FrameHeader pack(const Header& header, uint64_t payload_bytes);
  static Header unpack(const FrameHeader& frame);

  void take_inbox();
  bool poll_out(int rank, Peer& peer);
  bool next_frame(Peer& peer);
  void frame_left(Peer& peer);
  bool poll_in(int rank, Peer& peer);
  const char* awaited(int rank, const Peer& peer) const;
  void begin_frame(int rank, Peer& peer, const FrameHeader& frame);
  void frame_arrived(int rank, Peer& peer);
  void accept_rts(int rank, Peer& peer, const Header& header);
  Message match(int rank, const Header& header);
  bool match_arrived(const Message& recv);
  bool match_unexpected(const Message& recv, int rank, Peer& peer);
  void give_back(Peer& peer, const Header& header);
  void finish(const Message& message);
  void look_at_channels();
  void check_deadlines(TimeNs now);
  void fail_all(Failure failure);
  void for_each_pending(const std::function<void(const Message&)>& visit) const;

  ChannelSource& channels_;
  const int world_;
  const int lane_;
  const FailureHandler on_failure_;
  std::map<int, Peer> peers_;  // the progress thread's, as is the next
  std::list<Message> posted_;  // receives that wait, in order
  uint64_t channels_version_ = 0;
  std::vector<Presence> presences_;  // by rank, as of channels_version_
  int gone_ = 0;                     // of them, those that are not here
  TimeNs next_expiry_ = kNever;      // no deadline passes before it

  std::atomic<int> pending_{0};
  std::atomic<bool> requested_{false};
  std::atomic<bool> listening_{false};
  std::atomic<bool> filled_{false};  // new_sends_ or new_recvs_ holds something
  std::mutex mutex_;                 // guards what follows
  std::vector<Message> new_sends_;
  std::vector<Message> new_recvs_;
  std::optional<Failure> request_;
  std::shared_ptr<const Failure> failure_;
};

}  // namespace fastgpu
