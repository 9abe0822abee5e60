#include "engine/messages/message_queue.h"

#include <algorithm>
#include <string>
#include <utility>

namespace fastgpu {
namespace {

[[noreturn]] void raise_timeout(const MessageOperation& message) {
  const std::string peer =
      message.peer == kNoRank ? "any rank" : "rank " + std::to_string(message.peer);
  const std::string op(op_of(message));
  const std::string details = message.op.empty()
                                  ? " of " + describe_elements(message.dtype, message.size_bytes) +
                                        " with tag " + std::to_string(message.tag)
                                  : "";
  raise(make_failure(
      ErrorKind::kTimeout,
      timed_out_after(message.work->timeout_ns()) + op + details + " waited for " + peer,
      message.peer, op));
}

}  // namespace

MessageQueue::MessageQueue(ChannelSource& channels, int world, int lane,
                           std::shared_ptr<FailureLatch> latch)
    : world_(world),
      latch_(std::move(latch)),
      context_{
          channels, lane, {}, [this](const MessagePtr& message) { finish(message); }, windows_},
      presences_(static_cast<std::size_t>(world), Presence::kHere) {}

void MessageQueue::post_send(MessagePtr message) {
  latch_->raise_if_failed();
  message->is_send = true;
  sent_bytes_.fetch_add(message->size_bytes, std::memory_order_relaxed);
  inbox_.push(std::move(message));
}

void MessageQueue::post_recv(MessagePtr message) {
  latch_->raise_if_failed();
  received_bytes_.fetch_add(message->size_bytes, std::memory_order_relaxed);
  inbox_.push(std::move(message));
}

bool MessageQueue::await(Work& work) noexcept {
  const TimeNs deadline = work.start_time();
  return deadline != kNever && expect_expiry(deadline);
}

bool MessageQueue::expect_expiry(TimeNs deadline) noexcept {
  TimeNs next = next_expiry_.load();
  while (deadline < next) {
    if (next_expiry_.compare_exchange_weak(next, deadline)) return true;
  }
  return false;
}

bool MessageQueue::poll() noexcept {
  if (const Failure* failure = latch_->failure()) {
    fail_pending(*failure);
    return true;
  }
  try {
    take_inbox();
    update_presences();
    bool moved = false;
    for (auto& [peer, stream] : streams_) moved |= stream.poll();
    return moved;
  } catch (const CommError& error) {
    fail(error.failure());
  } catch (const std::exception& error) {
    fail(make_failure(ErrorKind::kAborted,
                      std::string("the engine met an unexpected error: ") + error.what()));
  }
  return true;
}

PeerStream& MessageQueue::stream(int peer) {
  const auto [found, is_new] = streams_.try_emplace(peer, peer, context_);
  if (is_new) found->second.set_ends_any_source(ends_any_source(peer));
  return found->second;
}

void MessageQueue::take_inbox() {
  if (!inbox_.filled()) return;
  std::vector<MessagePtr> recvs;
  for (MessagePtr& message : inbox_.take()) {
    expect_expiry(message->work->deadline());
    if (message->is_send) {
      stream(message->peer).send(std::move(message));
    } else {
      recvs.push_back(std::move(message));
    }
  }
  // All are on a list before any is matched, so that an error on the way loses none.
  std::list<MessagePtr>& posted = context_.posted;
  for (auto recv = posted.insert(posted.end(), recvs.begin(), recvs.end()); recv != posted.end();) {
    recv = take_unexpected(*recv) ? posted.erase(recv) : std::next(recv);
  }
}

bool MessageQueue::take_unexpected(const MessagePtr& recv) {
  if (recv->peer != kNoRank) return stream(recv->peer).take_unexpected(recv);
  return std::any_of(streams_.begin(), streams_.end(),
                     [&](auto& entry) { return entry.second.take_unexpected(recv); });
}

// A rank that has opened a channel to this one may have sent something.
void MessageQueue::update_presences() {
  ChannelSource& channels = context_.channels;
  const uint64_t version = channels.version();
  if (version == channels_version_) return;
  channels_version_ = version;
  gone_ = 0;
  for (int rank = 0; rank < world_; ++rank) {
    Presence& presence = presences_[static_cast<std::size_t>(rank)];
    presence = channels.presence(rank);
    gone_ += presence != Presence::kHere ? 1 : 0;
    if (channels.receiver(rank, context_.lane) != nullptr) {
      stream(rank);
      listening_.store(true);
    }
  }
  for (auto& [peer, stream] : streams_) stream.set_ends_any_source(ends_any_source(peer));
}

// The other ranks may still serve a receive from any rank when one left in order, but not when it
// was lost.
bool MessageQueue::ends_any_source(int peer) const {
  return presences_[static_cast<std::size_t>(peer)] == Presence::kLost || gone_ >= world_ - 1;
}

// The streams have dropped the message by now, so nobody else would fail its work.
void MessageQueue::finish(const MessagePtr& message) {
  try {
    if (message->epilogue) message->epilogue();
  } catch (const CommError& error) {
    latch_->report(error.failure());
    message->work->fail(failure_for(*latch_->failure(), op_of(*message)));
  }
  message->keep_alive.reset();
  ended_.store(ended_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  if (!message->work->done()) message->work->complete();
}

void MessageQueue::for_each_pending(const std::function<void(const MessagePtr&)>& visit) const {
  for (const MessagePtr& recv : context_.posted) visit(recv);
  for (const auto& [peer, stream] : streams_) stream.for_each_pending(visit);
}

// Too early where a message with an earlier deadline has ended meanwhile.
TimeNs MessageQueue::next_deadline() const noexcept { return next_expiry_.load(); }

void MessageQueue::expire(TimeNs now) noexcept {
  if (now < next_expiry_.load()) return;
  try {
    check_deadlines(now);
  } catch (const CommError& error) {
    fail(error.failure());
  }
}

// next_expiry_ is raised first: a deadline that await() adds meanwhile lowers it again.
void MessageQueue::check_deadlines(TimeNs now) {
  next_expiry_.store(kNever);
  for_each_pending([&](const MessagePtr& message) {
    const TimeNs deadline = message->work->deadline();
    expect_expiry(deadline);
    if (now >= deadline) raise_timeout(*message);
  });
}

void MessageQueue::fail(Failure failure) noexcept {
  latch_->report(std::move(failure));
  fail_pending(*latch_->failure());
}

void MessageQueue::fail_pending(const Failure& failure) noexcept {
  std::vector<MessagePtr> failed = std::move(inbox_.take());
  for_each_pending([&](const MessagePtr& message) { failed.push_back(message); });
  context_.posted.clear();
  streams_.clear();
  listening_.store(false);
  for (const MessagePtr& message : failed) {
    message->keep_alive.reset();
    message->work->fail(failure_for(failure, op_of(*message)));
    // Last: a thread that sees the queue idle finds the work failed.
    ended_.store(ended_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
}

}  // namespace fastgpu
