#include "engine/collective_queue.h"

#include <algorithm>
#include <set>
#include <string>

#include "base/wait_policy.h"

namespace fastgpu {
namespace {

// From this size on, an operation is timed from its call on.
constexpr uint64_t kClockedBytes = 128 * 1024;
// Below it, one lane's caller may have the progress thread to itself for a microsecond: others wait
// no longer.
constexpr uint64_t kAloneBytes = 128 * 1024;

Failure unexpected(const std::exception& error) {
  Failure failure;
  failure.message = std::string("the engine met an unexpected error: ") + error.what();
  return failure;
}

}  // namespace

CollectiveQueue::CollectiveQueue(ChannelSource& channels, int lanes, FailureHandler on_failure,
                                 AbandonHandler on_abandoned)
    : channels_(channels),
      on_failure_(std::move(on_failure)),
      on_abandoned_(std::move(on_abandoned)),
      lanes_(static_cast<std::size_t>(lanes)) {}

void CollectiveQueue::clock(const Operation& operation) {
  if (operation.call.count * operation.element_size < kClockedBytes || pending() > 0) return;
  busy_since_.store(now_ns(), std::memory_order_relaxed);
}

void CollectiveQueue::push(const std::shared_ptr<Operation>& operation) {
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr) raise(*failure_);
  clock(*operation);
  inbox_.push_back(operation);
  uint64_t last = tickets_.load();
  while (!tickets_.compare_exchange_weak(last, (last + kTicket) | kFilled)) {
  }
  operation->sequence = last / kTicket + 1;
}

// False when others pushed just now, and so come first.
bool CollectiveQueue::number(Operation& operation) {
  take_inbox();
  uint64_t last = tickets_.load(std::memory_order_relaxed);
  while ((last & kFilled) == 0) {
    if (!tickets_.compare_exchange_weak(last, last + kTicket)) continue;
    operation.sequence = last / kTicket + 1;
    return true;
  }
  return false;
}

bool CollectiveQueue::begin(const std::shared_ptr<Operation>& operation, int looks) {
  if (failure_ != nullptr) raise(*failure_);
  clock(*operation);
  if (!number(*operation)) {
    push(operation);
    return false;
  }
  count(*operation);
  if (looks > 0 && running_.empty() && operation->schedule->lanes.size() == 1 &&
      operation->call.count * operation->element_size < kAloneBytes) {
    try {
      if (run_alone(*operation, looks)) return true;
    } catch (const CommError& error) {
      fail_with(error.failure());
    } catch (const std::exception& error) {
      fail_with(unexpected(error));
    }
  }
  enqueue(operation);
  return false;
}

// What it did not get done, poll() goes on with.
bool CollectiveQueue::run_alone(Operation& operation, int looks) {
  LaneRun& run = lanes_.front().run;
  start(operation);
  run.start(operation, 0);
  while (run.poll(channels_) != LaneState::kDone) {
    if (--looks <= 0) return false;
    pause();
  }
  run.clear();
  wind_up(operation);
  return true;
}

void CollectiveQueue::fail_with(Failure failure) {
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr || request_.has_value()) return;
  request_ = std::move(failure);
  requested_.store(true);
}

std::shared_ptr<const Failure> CollectiveQueue::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

bool CollectiveQueue::poll() noexcept {
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
    return poll_lanes();
  } catch (const CommError& error) {
    fail_all(error.failure());
  } catch (const std::exception& error) {
    fail_all(unexpected(error));
  }
  return true;
}

void CollectiveQueue::count(const Operation& operation) noexcept {
  sent_bytes_.store(sent_bytes() + operation.sent_bytes, std::memory_order_relaxed);
  received_bytes_.store(received_bytes() + operation.received_bytes, std::memory_order_relaxed);
}

void CollectiveQueue::take_inbox() {
  if ((tickets_.load() & kFilled) == 0) return;
  {
    const std::lock_guard lock(mutex_);
    tickets_.fetch_and(~kFilled);
    taken_.swap(inbox_);
  }
  for (auto& operation : taken_) {
    count(*operation);
    enqueue(std::move(operation));
  }
  taken_.clear();
}

void CollectiveQueue::enqueue(std::shared_ptr<Operation> operation) {
  operation->lanes_left = static_cast<int>(operation->schedule->lanes.size());
  for (int lane = 0; lane < operation->lanes_left; ++lane) {
    lanes_[static_cast<std::size_t>(lane)].waiting.push_back(operation.get());
  }
  running_.push_back(std::move(operation));
  next_expiry_ = 0;
}

bool CollectiveQueue::poll_lanes() {
  bool moved = false;
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) moved |= poll_lane(lane);
  return moved;
}

void CollectiveQueue::begin_lane(LaneQueue& queue, std::size_t lane) {
  if (!queue.run.idle()) return;
  Operation& operation = *queue.waiting.front();
  start(operation);
  queue.run.start(operation, static_cast<int>(lane));
}

bool CollectiveQueue::poll_lane(std::size_t lane) {
  LaneQueue& queue = lanes_[lane];
  bool moved = false;
  while (!queue.waiting.empty()) {
    begin_lane(queue, lane);
    const LaneState state = queue.run.poll(channels_);
    if (state != LaneState::kDone) return moved || state == LaneState::kMoved;
    finish_lane(queue);
    moved = true;
  }
  return moved;
}

void CollectiveQueue::start(Operation& operation) {
  if (operation.started) return;
  operation.started = true;
  if (operation.lacks_scratch()) operation.scratch.swap(warm_scratch_);
  operation.take_scratch();
  if (operation.prologue) operation.prologue();
}

void CollectiveQueue::finish_lane(LaneQueue& queue) {
  Operation& operation = *queue.waiting.front();
  queue.waiting.pop_front();
  queue.run.clear();
  if (--operation.lanes_left > 0) return;
  finish(operation);
  while (!running_.empty() && running_.front()->lanes_left == 0) running_.pop_front();
}

void CollectiveQueue::wind_up(Operation& operation) {
  if (operation.epilogue) operation.epilogue();
  operation.release_caller();
  if (operation.scratch.size_bytes() > kSmallScratchBytes) operation.scratch = {};
  one_less();
}

void CollectiveQueue::finish(Operation& operation) {
  wind_up(operation);
  // Whoever has its Work may keep it for long.
  if (operation.scratch.size_bytes() > 0) warm_scratch_ = std::move(operation.scratch);
  operation.work.complete();
}

void CollectiveQueue::one_less() noexcept {
  finished_.store(finished_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  const TimeNs since = busy_since_.load(std::memory_order_relaxed);
  if (since == 0 || pending() > 0) return;
  busy_ns_.fetch_add(now_ns() - since, std::memory_order_relaxed);
  busy_since_.store(0, std::memory_order_relaxed);
}

TimeNs CollectiveQueue::next_deadline() const noexcept {
  TimeNs deadline = kNever;
  for (const auto& operation : running_) {
    if (operation->lanes_left > 0) deadline = std::min(deadline, operation->deadline);
  }
  return deadline;
}

void CollectiveQueue::expire(TimeNs now) noexcept {
  if (busy_since_.load(std::memory_order_relaxed) == 0) {
    busy_since_.store(now, std::memory_order_relaxed);
  }
  if (now < next_expiry_) return;
  try {
    check_deadlines(now);
  } catch (const CommError& error) {
    fail_all(error.failure());
  }
}

// An operation's time runs from the first look that finds nothing to move.
void CollectiveQueue::check_deadlines(TimeNs now) {
  next_expiry_ = kNever;
  for (const auto& pending : running_) {
    Operation& operation = *pending;
    if (operation.lanes_left == 0) continue;
    if (operation.deadline == kNever && operation.timeout_ns != kNever) {
      operation.deadline = now + operation.timeout_ns;
    }
    next_expiry_ = std::min(next_expiry_, operation.deadline);
    if (now < operation.deadline) continue;
    Failure failure;
    failure.kind = ErrorKind::kTimeout;
    failure.op = name_of(operation.call.collective);
    failure.sequence = static_cast<int64_t>(operation.sequence);
    failure.message = describe(operation.call) + " timed out";
    const std::set<int> peers = awaited_by(operation);
    if (!peers.empty()) failure.message += " waiting for rank";
    for (const int peer : peers) failure.message += " " + std::to_string(peer);
    failure.peer = peers.empty() ? kNoRank : *peers.begin();
    raise(failure);
  }
}

std::set<int> CollectiveQueue::awaited_by(const Operation& operation) const {
  std::set<int> peers;
  if (running_.front().get() != &operation) return peers;
  for (const LaneQueue& queue : lanes_) {
    if (queue.waiting.empty()) continue;
    const int peer = queue.run.waiting_for();
    if (peer != kNoRank) peers.insert(peer);
  }
  return peers;
}

void CollectiveQueue::fail_all(Failure failure) {
  if (this->failure() != nullptr) {
    requested_.store(false);
    return;
  }
  // That a peer is gone says less than the reason that came before it went.
  if (failure.kind == ErrorKind::kPeerLost) {
    const std::lock_guard lock(mutex_);
    if (request_.has_value()) failure = *request_;
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
    if (operation->work.done()) continue;
    Failure own = failure;
    own.op = name_of(operation->call.collective);
    own.sequence = static_cast<int64_t>(operation->sequence);
    if (operation->started && on_abandoned_) on_abandoned_(operation->data);
    operation->release_caller();
    operation->scratch = {};
    one_less();
    operation->work.fail(std::move(own));
  }
}

}  // namespace fastgpu
