// The point-to-point messages of one communicator, matched by peer and tag. Messages have a
// separate lane, so they never block a collective and no collective blocks them. PeerStream is the
// protocol with one peer. This class is for all peers together: receives from any rank, which ranks
// are present, time-outs, and the end of a message.
//
// Invariant: a message is in the inbox, in context_.posted or in one stream, until it ends.
// Ownership: shares the messages until they end; the channels outlive the queue. Threading: post_*,
// await, busy and the counters from any thread; the rest is the polling thread's.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/failure_latch.h"
#include "engine/inbox.h"
#include "engine/messages/peer_stream.h"

namespace fastgpu {

class MessageQueue : public Pollable {
 public:
  MessageQueue(ChannelSource& channels, int world, int lane, std::shared_ptr<FailureLatch> latch);

  // Raise the latched failure if there is one. Receives with the same peer and tag match in the
  // order posted.
  void post_send(MessagePtr message);
  void post_recv(MessagePtr message);
  // This rank's windows, which the puts of the peers write.
  WindowTable& windows() noexcept { return windows_; }
  // Somebody waits for this message from now on, so its time-out runs. True if the deadline is
  // earlier than every other one: then a sleeping polling thread must be woken.
  bool await(Work& work) noexcept;
  uint64_t sent_bytes() const noexcept { return sent_bytes_.load(std::memory_order_relaxed); }
  uint64_t received_bytes() const noexcept {
    return received_bytes_.load(std::memory_order_relaxed);
  }

  bool poll() noexcept override;
  void expire(TimeNs now) noexcept override;
  bool busy() const noexcept override {
    return inbox_.pushed() > ended_.load(std::memory_order_acquire);
  }
  // Takes in unexpected messages whenever the engine runs, so that their senders can go on.
  bool wants_idle_poll() const noexcept override { return busy() || listening_.load(); }
  TimeNs next_deadline() const noexcept override;

 private:
  PeerStream& stream(int peer);
  void take_inbox();
  bool take_unexpected(const MessagePtr& recv);
  void update_presences();
  bool ends_any_source(int peer) const;
  void finish(const MessagePtr& message);
  bool expect_expiry(TimeNs deadline) noexcept;
  void check_deadlines(TimeNs now);
  void fail(Failure failure) noexcept;
  void fail_pending(const Failure& failure) noexcept;
  void for_each_pending(const std::function<void(const MessagePtr&)>& visit) const;

  const int world_;
  const std::shared_ptr<FailureLatch> latch_;
  Inbox<MessagePtr> inbox_;

  WindowTable windows_;

  // The polling thread's.
  PeerStream::Context context_;
  std::map<int, PeerStream> streams_;
  uint64_t channels_version_ = 0;
  std::vector<Presence> presences_;  // by rank, as of channels_version_
  int gone_ = 0;                     // ranks that are not here

  std::atomic<TimeNs> next_expiry_{kNever};  // no deadline passes before it
  std::atomic<uint64_t> ended_{0};           // messages; written by the polling thread
  std::atomic<bool> listening_{false};
  std::atomic<uint64_t> sent_bytes_{0};
  std::atomic<uint64_t> received_bytes_{0};
};

}  // namespace fastgpu
