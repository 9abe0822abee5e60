#include "comm/staged_messages.h"

#include <algorithm>
#include <string>
#include <utility>

namespace fastgpu {
namespace {

constexpr TimeNs kPollNs = 20'000;  // nothing rings when a GPU has done its work

// Not empty, also for an empty message: the pool has no empty blocks.
std::shared_ptr<Scratch> block_of(const std::shared_ptr<ScratchPool>& pool, uint64_t size_bytes) {
  return std::make_shared<Scratch>(pool, std::max<uint64_t>(size_bytes, 1));
}

}  // namespace

StagedMessages::StagedMessages(DeviceRuntime& runtime, int device, Allocator& pinned,
                               std::shared_ptr<FailureLatch> latch, Post post)
    : executor_(std::make_shared<DeviceExecutor>(runtime, device)),
      pinned_(std::make_shared<ScratchPool>(&pinned)),
      latch_(std::move(latch)),
      post_(std::move(post)) {}

// The executor's stream has nothing but messages, so it may wait for the caller's stream at once.
void StagedMessages::send(MessagePtr message, const MessageCall& call) {
  const auto block = block_of(pinned_, message->size_bytes);
  const std::lock_guard lock(mutex_);
  try {
    latch_->raise_if_failed();
    executor_->start_after(*call.stream);
    executor_->copy(block->memory(), message->data, message->size_bytes);
    const uint64_t mark = executor_->mark();
    if (call.device_end != nullptr) call.device_end->set(executor_, mark);
    executor_->when_passed([given = std::move(message->keep_alive)] {});
    message->data = block->memory();
    message->keep_alive = block;
    message->is_send = true;
    sends_.push_back({mark, std::move(message)});
    unposted_.fetch_add(1);
  } catch (const DeviceError& error) {
    latch_->report(error.failure());
    throw;
  }
}

void StagedMessages::recv(const MessagePtr& message, const MessageCall& call) {
  const auto block = block_of(pinned_, message->size_bytes);
  try {
    const auto ready = executor_->place_in(*call.stream);
    std::byte* const target = std::exchange(message->data, block->memory());
    auto given = std::exchange(message->keep_alive, block);
    message->epilogue = [executor = executor_, block, ready, target,
                         size_bytes = message->size_bytes, end = call.device_end,
                         given = std::move(given)] {
      executor->start_after(ready);
      executor->copy(target, block->memory(), size_bytes);
      if (end != nullptr) end->set(executor, executor->mark());
      executor->when_passed([block, given] {});
    };
  } catch (const DeviceError& error) {
    latch_->report(error.failure());
    throw;
  }
}

bool StagedMessages::poll() noexcept {
  if (const Failure* failure = latch_->failure()) fail_sends(*failure);
  if (device_failed_.load()) return false;
  Failure failure;
  try {
    post_copied();
    executor_->run_due();
    return false;
  } catch (const CommError& error) {
    failure = error.failure();
  } catch (const std::exception& error) {
    failure.message = std::string("messages of a GPU met an unexpected error: ") + error.what();
  }
  device_failed_.store(true);
  latch_->report(std::move(failure));
  return true;
}

void StagedMessages::post_copied() {
  while (sending()) {
    const uint64_t passed = executor_->passed();
    MessagePtr message;
    {
      const std::lock_guard lock(mutex_);
      if (sends_.empty() || sends_.front().mark > passed) return;
      message = std::move(sends_.front().message);
      sends_.pop_front();
    }
    try {
      post_(message);
    } catch (const CommError&) {  // the group has failed
      message->work->fail(failure_for(*latch_->failure(), op_of(*message)));
    }
    unposted_.fetch_sub(1);
  }
}

void StagedMessages::fail_sends(const Failure& failure) noexcept {
  std::deque<Send> failed;
  {
    const std::lock_guard lock(mutex_);
    failed.swap(sends_);
  }
  for (const Send& send : failed) {
    send.message->work->fail(failure_for(failure, op_of(*send.message)));
    unposted_.fetch_sub(1);
  }
}

void StagedMessages::expire(TimeNs now) noexcept {
  Failure failure;
  {
    const std::lock_guard lock(mutex_);
    const auto late = std::ranges::find_if(
        sends_, [now](const Send& send) { return now >= send.message->work->deadline(); });
    if (late == sends_.end()) return;
    failure.kind = ErrorKind::kTimeout;
    failure.op = op_of(*late->message);
    failure.message = timed_out_after(late->message->work->timeout_ns()) +
                      "this rank's GPU has not done the work before the message to rank " +
                      std::to_string(late->message->peer);
  }
  latch_->report(std::move(failure));
}

TimeNs StagedMessages::next_deadline() const noexcept {
  const bool polls = busy() && !(device_failed_.load() && !sending());
  return polls ? now_ns() + kPollNs : kNever;
}

}  // namespace fastgpu
