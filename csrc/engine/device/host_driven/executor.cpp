#include "engine/device/host_driven/executor.h"

#include <array>
#include <string>

#include "base/error.h"
#include "base/log.h"

namespace fastgpu {
namespace {

// The sum of complex numbers, times a factor, is that of twice as many real ones.
DType summed_as(const Reduction& reduction) {
  return reduction.factor == 1 ? reduction.dtype : part_of(reduction.dtype);
}

}  // namespace

DeviceExecutor::DeviceExecutor(DeviceRuntime& runtime, int device)
    : runtime_(runtime), device_(device), stream_(runtime.make_stream(device)) {}

DeviceExecutor::~DeviceExecutor() {
  finish();
  for (const EventHandle event : pending_) runtime_.destroy(event);
  for (const EventHandle event : spare_) runtime_.destroy(event);
  runtime_.destroy(stream_);
}

void DeviceExecutor::synchronize() {
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

template <typename Call>
auto DeviceExecutor::on_device(Call call) {
  const std::lock_guard lock(mutex_);
  try {
    return call();
  } catch (const CommError& error) {
    throw DeviceError(error.failure());
  }
}

void DeviceExecutor::copy(std::byte* target, const std::byte* source, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  on_device([&] {
    marks_end_ = false;
    runtime_.copy(stream_, target, source, size_bytes);
  });
}

void DeviceExecutor::reduce(std::byte* target, const std::byte* source, std::size_t size_bytes,
                            const Reduction& reduction) {
  const std::array<const std::byte*, 2> sources{target, source};
  launch(target, sources, size_bytes, reduction);
}

void DeviceExecutor::scale(std::byte* target, const std::byte* source, std::size_t size_bytes,
                           DType dtype, double factor) {
  launch(target, {&source, 1}, size_bytes, {.dtype = dtype, .factor = factor});
}

void DeviceExecutor::launch(std::byte* target, std::span<const std::byte* const> sources,
                            std::size_t size_bytes, const Reduction& reduction) {
  if (size_bytes == 0) return;
  const std::array<std::byte*, 1> targets{target};
  const ReduceLaunch made{.sources = sources,
                          .targets = targets,
                          .size_bytes = size_bytes,
                          .dtype = summed_as(reduction),
                          .reduce_op = reduction.reduce_op,
                          .factor = reduction.factor};
  on_device([&] {
    marks_end_ = false;
    runtime_.reduce(stream_, made);
  });
}

void DeviceExecutor::encode(const EncodeLaunch& launch) {
  if (launch.count == 0) return;
  on_device([&] {
    marks_end_ = false;
    runtime_.encode(stream_, launch);
  });
}

void DeviceExecutor::decode(const DecodeLaunch& launch) {
  if (launch.count == 0) return;
  on_device([&] {
    marks_end_ = false;
    runtime_.decode(stream_, launch);
  });
}

void DeviceExecutor::launch(const KernelLaunch& launch) {
  on_device([&] {
    marks_end_ = false;
    runtime_.launch(stream_, launch);
  });
}

void DeviceExecutor::load(const void* kernel) {
  on_device([&] { runtime_.load(device_, kernel); });
}

void DeviceExecutor::enqueue(const std::function<void(StreamHandle)>& call) {
  on_device([&] {
    marks_end_ = false;
    call(stream_);
  });
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
  on_device([&] {
    marks_end_ = false;
    runtime_.wait(stream_, *place);
  });
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

uint64_t DeviceExecutor::mark_locked() {
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
