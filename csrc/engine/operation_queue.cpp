#include "engine/operation_queue.h"

#include <algorithm>
#include <set>
#include <string>

namespace fastgpu {

OperationQueue::OperationQueue(ChannelSource& channels, int lanes, FailureHandler on_failure)
    : channels_(channels),
      on_failure_(std::move(on_failure)),
      lanes_(static_cast<std::size_t>(lanes)) {}

void OperationQueue::push(std::shared_ptr<Operation> operation) {
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr) raise(*failure_);
  operation->sequence = sequence_.load(std::memory_order_relaxed) + 1;
  sequence_.store(operation->sequence);
  inbox_.push_back(std::move(operation));
  if (pending_.fetch_add(1) == 0) busy_since_.store(now_ns(), std::memory_order_relaxed);
}

void OperationQueue::fail_with(Failure failure) {
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr || request_.has_value()) return;
  request_ = std::move(failure);
  requested_.store(true);
}

std::shared_ptr<const Failure> OperationQueue::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

bool OperationQueue::poll() noexcept {
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
    bool moved = false;
    for (int lane = 0; lane < static_cast<int>(lanes_.size()); ++lane) moved |= poll_lane(lane);
    if (!moved) check_deadlines();
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

void OperationQueue::take_inbox() {
  {
    const std::lock_guard lock(mutex_);
    if (inbox_.empty()) return;
    taken_.swap(inbox_);
  }
  for (auto& operation : taken_) {
    operation->lanes_left = static_cast<int>(operation->schedule->lanes.size());
    for (int lane = 0; lane < operation->lanes_left; ++lane) {
      lanes_[static_cast<std::size_t>(lane)].waiting.push_back(operation);
    }
    running_.push_back(std::move(operation));
  }
  taken_.clear();
}

bool OperationQueue::poll_lane(int lane) {
  LaneQueue& queue = lanes_[static_cast<std::size_t>(lane)];
  bool moved = false;
  while (!queue.waiting.empty()) {
    Operation& operation = *queue.waiting.front();
    if (queue.run.idle()) {
      start(operation);
      queue.run.start(operation, lane);
    }
    const LaneState state = queue.run.poll(channels_);
    if (state != LaneState::kDone) return moved || state == LaneState::kMoved;
    finish_lane(queue);
    moved = true;
  }
  return moved;
}

void OperationQueue::start(Operation& operation) {
  if (operation.started) return;
  operation.started = true;
  if (operation.prologue) operation.prologue();
}

void OperationQueue::finish_lane(LaneQueue& queue) {
  const std::shared_ptr<Operation> operation = std::move(queue.waiting.front());
  queue.waiting.pop_front();
  queue.run.clear();
  if (--operation->lanes_left > 0) return;
  finish(*operation);
  while (!running_.empty() && running_.front()->lanes_left == 0) running_.pop_front();
}

void OperationQueue::finish(Operation& operation) {
  if (operation.epilogue) operation.epilogue();
  operation.keep_alive.reset();
  operation.wire_owner.reset();
  one_less();
  operation.work->complete();
}

void OperationQueue::one_less() noexcept {
  const TimeNs since = busy_since_.load(std::memory_order_relaxed);
  if (pending_.fetch_sub(1) == 1) busy_ns_.fetch_add(now_ns() - since, std::memory_order_relaxed);
}

TimeNs OperationQueue::next_deadline() const noexcept {
  TimeNs deadline = kNever;
  for (const auto& operation : running_) {
    if (operation->lanes_left > 0) deadline = std::min(deadline, operation->deadline);
  }
  return deadline;
}

void OperationQueue::check_deadlines() {
  const TimeNs now = now_ns();
  for (const auto& pending : running_) {
    const Operation& operation = *pending;
    if (operation.lanes_left == 0 || now < operation.deadline) continue;
    Failure failure;
    failure.kind = ErrorKind::kTimeout;
    failure.op = name_of(operation.call.collective);
    failure.sequence = static_cast<int64_t>(operation.sequence);
    failure.message = describe(operation.call) + " timed out" + waiting_for(operation);
    raise(failure);
  }
}

std::string OperationQueue::waiting_for(const Operation& operation) const {
  std::set<int> peers;
  for (const LaneQueue& queue : lanes_) {
    if (queue.waiting.empty()) continue;
    const int peer = queue.run.waiting_for();
    if (peer != kNoRank) peers.insert(peer);
  }
  if (peers.empty() || running_.front().get() != &operation) return "";
  std::string text = " waiting for rank";
  for (const int peer : peers) text.append(" ").append(std::to_string(peer));
  return text;
}

void OperationQueue::fail_all(Failure failure) {
  if (this->failure() != nullptr) {
    requested_.store(false);
    return;
  }
  on_failure_(failure);
  {
    const std::lock_guard lock(mutex_);
    failure_ = std::make_shared<const Failure>(failure);
    request_.reset();
    requested_.store(false);
  }
  take_inbox();
  for (LaneQueue& queue : lanes_) {
    queue.run.clear();
    queue.waiting.clear();
  }
  std::deque<std::shared_ptr<Operation>> failed;
  failed.swap(running_);
  for (const auto& operation : failed) {
    if (operation->lanes_left == 0) continue;
    Failure own = failure;
    own.op = name_of(operation->call.collective);
    own.sequence = static_cast<int64_t>(operation->sequence);
    operation->keep_alive.reset();
    one_less();
    operation->work->fail(std::move(own));
  }
}

}  // namespace fastgpu
