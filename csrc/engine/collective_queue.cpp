#include "engine/collective_queue.h"

#include <algorithm>
#include <set>
#include <string>

#include "base/wait_policy.h"

namespace fastgpu {
namespace {

// The time of larger operations counts from their call on.
constexpr uint64_t kClockedBytes = 128 * 1024;
// Larger operations are not tried alone: other queues would wait for longer than a microsecond.
constexpr uint64_t kAloneBytes = 128 * 1024;

uint64_t bytes_of(const Task& task) { return task.call.shape.count * task.element_size; }

Failure unexpected(const std::exception& error) {
  Failure failure;
  failure.message = std::string("the engine met an unexpected error: ") + error.what();
  return failure;
}

// Counters that one thread writes need no locked instruction.
template <typename Number>
void add(std::atomic<Number>& counter, Number more) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + more, std::memory_order_release);
}

}  // namespace

CollectiveQueue::CollectiveQueue(ChannelSource& channels, int lanes,
                                 std::shared_ptr<FailureLatch> latch, AbandonHandler on_abandoned)
    : channels_(channels),
      latch_(std::move(latch)),
      on_abandoned_(std::move(on_abandoned)),
      lanes_(static_cast<std::size_t>(lanes)) {}

void CollectiveQueue::start_clock(const Operation& operation) {
  if (bytes_of(operation.task) < kClockedBytes || pending() > 0) return;
  busy_since_.store(now_ns(), std::memory_order_relaxed);
}

void CollectiveQueue::push(std::shared_ptr<Operation> operation) {
  latch_->raise_if_failed();
  const bool is_internal = operation->task.is_internal;
  start_clock(*operation);
  inbox_.push(std::move(operation));
  if (is_internal) unnumbered_.fetch_add(1);
}

bool CollectiveQueue::enter(const std::shared_ptr<Operation>& operation, int polls) {
  latch_->raise_if_failed();
  start_clock(*operation);
  take_inbox();
  add(entered_, uint64_t{1});
  if (operation->task.is_internal) unnumbered_.fetch_add(1);
  admit(*operation);
  if (polls > 0 && running_.empty() && operation->task.schedule->lanes.size() == 1 &&
      bytes_of(operation->task) < kAloneBytes) {
    try {
      if (run_alone(*operation, polls)) return true;
    } catch (const CommError& error) {
      latch_->report(error.failure());
    } catch (const std::exception& error) {
      latch_->report(unexpected(error));
    }
  }
  enqueue(operation);
  return false;
}

void CollectiveQueue::restart_numbers() noexcept {
  unnumbered_ = added();
  admitted_ = 0;
}

void CollectiveQueue::take_inbox() {
  if (!inbox_.filled()) return;
  for (auto& operation : inbox_.take()) {
    admit(*operation);
    enqueue(std::move(operation));
  }
}

void CollectiveQueue::admit(Operation& operation) {
  if (!operation.task.is_internal) ++admitted_;
  operation.sequence = admitted_;
  add(sent_bytes_, operation.task.sent_bytes);
  add(received_bytes_, operation.task.received_bytes);
}

// If it does not finish the operation, poll() goes on from where this stopped.
bool CollectiveQueue::run_alone(Operation& operation, int polls) {
  LaneRun& run = lanes_.front().run;
  start(operation);
  run.start(operation, 0);
  while (run.poll(channels_) != LaneState::kDone) {
    if (--polls <= 0) return false;
    pause();
  }
  run.clear();
  wind_up(operation);
  return true;
}

bool CollectiveQueue::poll() noexcept {
  if (const Failure* failure = latch_->failure()) {
    fail_pending(*failure);
    return true;
  }
  try {
    take_inbox();
    return poll_lanes();
  } catch (const CommError& error) {
    fail(error.failure());
  } catch (const std::exception& error) {
    fail(unexpected(error));
  }
  return true;
}

void CollectiveQueue::enqueue(std::shared_ptr<Operation> operation) {
  operation->lanes_left = static_cast<int>(operation->task.schedule->lanes.size());
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
  if (operation.task.prologue) operation.task.prologue();
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
  if (operation.task.epilogue) operation.task.epilogue();
  operation.release_caller();
  if (operation.scratch.size_bytes() > kSmallScratchBytes) operation.scratch = {};
  count_ended();
}

void CollectiveQueue::finish(Operation& operation) {
  wind_up(operation);
  // A caller may keep the Work, and so the operation, for long.
  if (operation.scratch.size_bytes() > 0) warm_scratch_ = std::move(operation.scratch);
  operation.work.complete();
}

void CollectiveQueue::count_ended() noexcept {
  add(ended_, uint64_t{1});
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
    fail(error.failure());
  }
}

// The time of an operation starts with the first poll that finds nothing to move.
void CollectiveQueue::check_deadlines(TimeNs now) {
  next_expiry_ = kNever;
  for (const auto& pending : running_) {
    Operation& operation = *pending;
    if (operation.lanes_left == 0) continue;
    if (operation.deadline == kNever && operation.task.timeout_ns != kNever) {
      operation.deadline = now + operation.task.timeout_ns;
    }
    next_expiry_ = std::min(next_expiry_, operation.deadline);
    if (now < operation.deadline) continue;
    Failure failure;
    failure.kind = ErrorKind::kTimeout;
    failure.op = op_of(operation.task);
    failure.sequence = static_cast<int64_t>(operation.sequence);
    failure.message = timed_out_after(operation.task.timeout_ns) + describe(operation.task) +
                      " waited for " + describe_wait(operation, &failure.peer);
    raise(failure);
  }
}

// Describes the wait of an operation, and finds the peer that is most likely late. Peers that have
// sent no frame of the operation are suspected first.
std::string CollectiveQueue::describe_wait(const Operation& operation, int* suspect) const {
  std::set<int> silent;
  std::set<int> begun;
  for (const LaneQueue& queue : lanes_) {
    if (queue.waiting.empty() || queue.waiting.front() != &operation) continue;
    const int peer = queue.run.waiting_for();
    if (peer == kNoRank) continue;
    (queue.run.has_heard_from(peer) ? begun : silent).insert(peer);
  }
  const std::set<int>& peers = silent.empty() ? begun : silent;
  if (peers.empty()) {
    const Operation& first = *running_.front();
    return "an earlier operation, " + op_of(first.task) + " #" + std::to_string(first.sequence);
  }
  *suspect = *peers.begin();
  std::string text;
  for (const int peer : peers)
    text += (text.empty() ? "rank " : " and rank ") + std::to_string(peer);
  return text + (silent.empty() ? ", which takes part in it and is slow, or waits for another rank"
                                : ", which has sent nothing for it yet, and may wait for another "
                                  "rank itself");
}

void CollectiveQueue::fail(Failure failure) noexcept {
  latch_->report(std::move(failure));
  fail_pending(*latch_->failure());
}

void CollectiveQueue::fail_pending(const Failure& failure) noexcept {
  take_inbox();
  for (LaneQueue& queue : lanes_) {
    queue.run.clear();
    queue.waiting.clear();
  }
  std::deque<std::shared_ptr<Operation>> failed;
  failed.swap(running_);
  for (const auto& operation : failed) {
    if (operation->work.done()) continue;
    if (operation->started && on_abandoned_) on_abandoned_(operation->task.data);
    operation->release_caller();
    operation->scratch = {};
    operation->work.fail(
        failure_for(failure, op_of(operation->task), static_cast<int64_t>(operation->sequence)));
    count_ended();  // last: a thread that sees the queue idle finds the work failed
  }
}

}  // namespace fastgpu
