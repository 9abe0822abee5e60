#include "engine/messages/message_queue.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace fastgpu {

void MessageQueue::raise_failure(ErrorKind kind, int peer, const char* op, std::string text) {
  Failure failure;
  failure.kind = kind;
  failure.peer = peer;
  failure.op = op;
  failure.message = std::move(text);
  raise(failure);
}

MessageQueue::MessageQueue(ChannelSource& channels, int world, int lane, FailureHandler on_failure)
    : channels_(channels),
      world_(world),
      lane_(lane),
      on_failure_(std::move(on_failure)),
      presences_(static_cast<std::size_t>(world), Presence::kHere) {}

void MessageQueue::post_send(Message message) {
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr) raise(*failure_);
  new_sends_.push_back(std::move(message));
  filled_.store(true);
  pending_.fetch_add(1);
}

void MessageQueue::post_recv(Message message) {
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr) raise(*failure_);
  new_recvs_.push_back(std::move(message));
  filled_.store(true);
  pending_.fetch_add(1);
}

void MessageQueue::fail_with(Failure failure) {
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr || request_.has_value()) return;
  request_ = std::move(failure);
  requested_.store(true);
}

bool MessageQueue::poll() noexcept {
  try {
    if (requested_.load()) {
      std::unique_lock lock(mutex_);
      Failure failure = std::move(*request_);
      request_.reset();
      lock.unlock();
      fail_all(std::move(failure));
      return true;
    }
    take_inbox();
    look_at_channels();
    bool moved = false;
    for (auto& [rank, peer] : peers_) {
      moved |= poll_in(rank, peer);
      moved |= poll_out(rank, peer);
    }
    return moved;
  } catch (const CommError& error) {
    fail_all(error.failure());
  } catch (const std::exception& error) {
    Failure failure;
    failure.message = std::string("the engine met an unexpected error: ") + error.what();
    fail_all(std::move(failure));
  }
  return true;
}

void MessageQueue::take_inbox() {
  if (!filled_.load()) return;
  std::vector<Message> sends;
  std::vector<Message> recvs;
  {
    const std::lock_guard lock(mutex_);
    filled_.store(false);
    sends.swap(new_sends_);
    recvs.swap(new_recvs_);
  }
  for (const auto* messages : {&sends, &recvs}) {
    for (const Message& message : *messages) {
      next_expiry_ = std::min(next_expiry_, message->deadline);
    }
  }
  for (Message& send : sends) peers_[send->peer].queue.push_back(std::move(send));
  // All are posted before any is matched, so that an error on the way loses none.
  const auto first_new = posted_.insert(posted_.end(), recvs.begin(), recvs.end());
  for (auto recv = recvs.empty() ? posted_.end() : first_new; recv != posted_.end();) {
    recv = match_arrived(*recv) ? posted_.erase(recv) : std::next(recv);
  }
}

bool MessageQueue::match_arrived(const Message& recv) {
  if (recv->peer != kNoRank) return match_unexpected(recv, recv->peer, peers_[recv->peer]);
  return std::any_of(peers_.begin(), peers_.end(), [&](auto& entry) {
    return match_unexpected(recv, entry.first, entry.second);
  });
}

// Whoever has opened a channel to us may have sent something; whoever is gone sends nothing more.
void MessageQueue::look_at_channels() {
  const uint64_t version = channels_.version();
  if (version == channels_version_) return;
  channels_version_ = version;
  gone_ = 0;
  for (int rank = 0; rank < world_; ++rank) {
    Presence& presence = presences_[static_cast<std::size_t>(rank)];
    presence = channels_.presence(rank);
    gone_ += presence != Presence::kHere ? 1 : 0;
    if (channels_.receiver(rank, lane_) != nullptr) {
      peers_[rank];
      listening_.store(true);
    }
  }
}

void MessageQueue::finish(const Message& message) {
  if (message->epilogue) message->epilogue();
  message->keep_alive.reset();
  pending_.fetch_sub(1);
  message->work->complete();
}

void MessageQueue::for_each_pending(const std::function<void(const Message&)>& visit) const {
  for (const Message& recv : posted_) visit(recv);
  for (const auto& [rank, peer] : peers_) {
    for (const Message& send : peer.queue) visit(send);
    for (const auto& [id, send] : peer.offered) visit(send);
    for (const auto& [id, send] : peer.granted) visit(send);
    for (const auto& [id, recv] : peer.receiving) visit(recv);
    // A message under way as one eager frame is in no other place.
    if (peer.frame_of != nullptr && peer.frame_of->size_bytes <= kEagerBytes &&
        (peer.granted.empty() || peer.granted.front().second != peer.frame_of)) {
      visit(peer.frame_of);
    }
    if (peer.into != nullptr && peer.head && peer.head->kind == Kind::kEager) visit(peer.into);
  }
}

// Early, perhaps, by those that are done meanwhile.
TimeNs MessageQueue::next_deadline() const noexcept { return next_expiry_; }

void MessageQueue::expire(TimeNs now) noexcept {
  if (now < next_expiry_) return;
  try {
    check_deadlines(now);
  } catch (const CommError& error) {
    fail_all(error.failure());
  }
}

void MessageQueue::check_deadlines(TimeNs now) {
  next_expiry_ = kNever;
  for_each_pending([&](const Message& message) {
    next_expiry_ = std::min(next_expiry_, message->deadline);
    if (now < message->deadline) return;
    const std::string peer =
        message->peer == kNoRank ? "any rank" : "rank " + std::to_string(message->peer);
    raise_failure(ErrorKind::kTimeout, message->peer, "send/recv",
                  "a message of " + std::to_string(message->size_bytes) + " bytes with tag " +
                      std::to_string(message->tag) + " timed out; the other side is " + peer);
  });
}

void MessageQueue::fail_all(Failure failure) {
  {
    const std::lock_guard lock(mutex_);
    if (failure.kind == ErrorKind::kPeerLost && request_.has_value()) failure = *request_;
    request_.reset();
    requested_.store(false);
    if (failure_ != nullptr) return;
  }
  on_failure_(failure);
  std::vector<Message> failed;
  {
    const std::lock_guard lock(mutex_);
    failure_ = std::make_shared<const Failure>(failure);
    failed.insert(failed.end(), new_sends_.begin(), new_sends_.end());
    failed.insert(failed.end(), new_recvs_.begin(), new_recvs_.end());
    new_sends_.clear();
    new_recvs_.clear();
  }
  for_each_pending([&](const Message& message) { failed.push_back(message); });
  posted_.clear();
  peers_.clear();
  listening_.store(false);
  for (const Message& message : failed) {
    message->keep_alive.reset();
    pending_.fetch_sub(1);
    message->work->fail(failure);
  }
}

}  // namespace fastgpu
