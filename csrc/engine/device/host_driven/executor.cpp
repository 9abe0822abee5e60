#include "engine/device/host_driven/executor.h"

#include <string>

#include "base/error.h"
#include "base/log.h"

namespace fastgpu {
DeviceExecutor::DeviceExecutor(DeviceRuntime& runtime, int device)
    : runtime_(runtime), device_(device), stream_(runtime.make_stream(device)) {}

DeviceExecutor::~DeviceExecutor() {
  finish();
  for (const EventHandle event : pending_) runtime_.destroy(event);
  for (const EventHandle event : spare_) runtime_.destroy(event);
  runtime_.destroy(stream_);
}

template <typename Call>
auto DeviceExecutor::on_device(Call call) {
  const std::lock_guard lock(mutex_);
  try {
    return call();
  } catch (const CommError& error) {
    throw DeviceError(error.failure());
  }
}

template <typename Call>
void DeviceExecutor::enqueue_work(Call call) {
  on_device([&] {
    launch_held();
    marks_end_ = false;
    call();
  });
}

void DeviceExecutor::launch_held() {
  if (held_.empty()) return;
  const HeldSum sum = std::exchange(held_, {});
  const bool owes_mark = std::exchange(owes_mark_, false);
  marks_end_ = false;
  sum.launch(runtime_, stream_);
  if (owes_mark) record_mark();
}

void DeviceExecutor::synchronize() {
  on_device([&] { launch_held(); });
  try {
    runtime_.synchronize(stream_);
  } catch (const CommError& error) {
    throw DeviceError(error.failure());
  }
}

void DeviceExecutor::finish() noexcept {
  try {
    synchronize();
    passed();
  } catch (const std::exception& error) {
    log(LogLevel::kError, "device_failed", "message=" + in_quotes(error.what()));
  }
  run_calls(UINT64_MAX);
}

void DeviceExecutor::copy(std::byte* target, const std::byte* source, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  enqueue_work([&] { runtime_.copy(stream_, target, source, size_bytes); });
}

void DeviceExecutor::set_aside(std::byte* target, const std::byte* source, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  on_device([&] {
    launch_held();
    held_.set_aside(target, source, size_bytes);
  });
}

void DeviceExecutor::start_sum(std::byte* target, const std::byte* source, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  on_device([&] {
    if (held_.start(target, source, size_bytes)) return;
    launch_held();
    held_.start(target, source, size_bytes);
  });
}

void DeviceExecutor::reduce(std::byte* target, const std::byte* source, std::size_t size_bytes,
                            const Reduction& reduction) {
  if (size_bytes == 0) return;
  on_device([&] {
    if (!held_.add(target, source, size_bytes, reduction)) {
      launch_held();
      held_.add(target, source, size_bytes, reduction);
    }
    if (!reduction.is_continued || held_.full()) launch_held();
  });
}

void DeviceExecutor::scale(std::byte* target, const std::byte* source, std::size_t size_bytes,
                           DType dtype, double factor) {
  if (size_bytes == 0) return;
  enqueue_work([&] {
    launch_reduction(runtime_, stream_, target, {&source, 1}, size_bytes,
                     {.dtype = dtype, .factor = factor});
  });
}

void DeviceExecutor::encode(const EncodeLaunch& launch) {
  if (launch.count == 0) return;
  enqueue_work([&] { runtime_.encode(stream_, launch); });
}

void DeviceExecutor::decode(const DecodeLaunch& launch) {
  if (launch.count == 0) return;
  enqueue_work([&] { runtime_.decode(stream_, launch); });
}

void DeviceExecutor::add_residual(const ResidualLaunch& launch) {
  if (launch.count == 0) return;
  enqueue_work([&] { runtime_.add_residual(stream_, launch); });
}

void DeviceExecutor::launch(const KernelLaunch& launch) {
  enqueue_work([&] { runtime_.launch(stream_, launch); });
}

void DeviceExecutor::load(const void* kernel) {
  on_device([&] { runtime_.load(device_, kernel); });
}

void DeviceExecutor::enqueue(const std::function<void(StreamHandle)>& call) {
  enqueue_work([&] { call(stream_); });
}

DeviceExecutor::Place DeviceExecutor::place_in(StreamHandle stream) {
  const EventHandle event = on_device([&] { return take_event(); });
  const Place place(new EventHandle(event), [this](const EventHandle* used) {
    const std::lock_guard lock(mutex_);
    spare_.push_back(*used);
    delete used;
  });
  on_device([&] { runtime_.record(event, stream); });
  return place;
}

// A wait holds for the latest record at the time of the call, so the event may be used again.
void DeviceExecutor::start_after(const Place& place) {
  enqueue_work([&] { runtime_.wait(stream_, *place); });
}

// Events pass in order, one for each mark, so the first pending one is that of mark passed_ + 1.
void DeviceExecutor::finish_before(StreamHandle stream, uint64_t mark) {
  on_device([&] {
    if (mark <= passed_) return;
    runtime_.wait(stream, pending_.at(static_cast<std::size_t>(mark - passed_ - 1)));
  });
}

EventHandle DeviceExecutor::take_event() {
  if (spare_.empty()) return runtime_.make_event(device_);
  const EventHandle event = spare_.back();
  spare_.pop_back();
  return event;
}

uint64_t DeviceExecutor::mark() {
  return on_device([&] { return mark_locked(); });
}

uint64_t DeviceExecutor::mark_later() {
  return on_device([&] {
    if (held_.empty()) return record_mark();
    owes_mark_ = true;
    return marked_ + 1;
  });
}

uint64_t DeviceExecutor::mark_locked() {
  launch_held();
  return record_mark();
}

uint64_t DeviceExecutor::record_mark() {
  if (marks_end_) return marked_;
  pending_.push_back(take_event());
  runtime_.record(pending_.back(), stream_);
  marks_end_ = true;
  return ++marked_;
}

uint64_t DeviceExecutor::passed() {
  return on_device([&] {
    while (!pending_.empty() && runtime_.passed(pending_.front())) {
      spare_.push_back(pending_.front());
      pending_.pop_front();
      ++passed_;
    }
    return passed_;
  });
}

void DeviceExecutor::run_due() {
  if (has_calls()) run_calls(passed());
}

// Without the lock: the calls may enqueue, and free memory of other owners.
void DeviceExecutor::run_calls(uint64_t mark) noexcept {
  std::vector<std::function<void()>> due;
  {
    const std::lock_guard lock(mutex_);
    while (!calls_.empty() && calls_.front().first <= mark) {
      due.push_back(std::move(calls_.front().second));
      calls_.pop_front();
    }
  }
  for (auto& call : due) {
    try {
      call();
    } catch (const std::exception& error) {
      log(LogLevel::kError, "device_failed", "message=" + in_quotes(error.what()));
    }
    call = nullptr;
    waiting_calls_.fetch_sub(1, std::memory_order_release);
  }
}

void DeviceExecutor::when_passed(std::function<void()> call) {
  on_device([&] {
    calls_.emplace_back(mark_locked(), std::move(call));
    waiting_calls_.fetch_add(1, std::memory_order_release);
  });
}

std::shared_ptr<void> DeviceExecutor::keep(std::shared_ptr<void> memory) {
  void* const address = memory.get();
  return {address, [this, memory = std::move(memory)](void*) mutable {
            try {
              when_passed([kept = std::move(memory)] {});
            } catch (const std::exception& error) {
              log(LogLevel::kError, "device_failed", "message=" + in_quotes(error.what()));
            }
          }};
}

void DeviceScratchMemory::free(std::byte* memory) noexcept {
  try {
    executor_.when_passed([this, memory] { heap_.free(memory); });
  } catch (const std::exception& error) {  // the memory stays used, because work may use it
    log(LogLevel::kError, "device_failed", "message=" + in_quotes(error.what()));
  }
}

}  // namespace fastgpu
