// Runs the copies and reductions of operations in one stream of one device, and tells the host how
// far the stream has come.
//
// A *mark* is a place in the stream; marks are numbered from 1, and pass in order. All lanes of a
// group share the stream, so that the order of the calls is the order of the work. Only the steps
// of a sum may be held back, to become one launch (HeldSum): until the last of them, or until
// anything else is enqueued or marked.
// Ownership: owns its stream and events; the runtime outlives it. Its destructor waits for the
// stream. Thread safety: all calls, any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/heap.h"
#include "device/runtime.h"
#include "engine/device/host_driven/held_sum.h"
#include "engine/executor.h"

namespace fastgpu {

// A failure of this rank's own device, whichever peer's frame was at hand.
class DeviceError : public CommError {
  using CommError::CommError;
};

// Calls that ask the device for anything raise DeviceError.
class DeviceExecutor final : public Executor {
 public:
  DeviceExecutor(DeviceRuntime& runtime, int device);
  ~DeviceExecutor() override;
  DeviceExecutor(const DeviceExecutor&) = delete;
  DeviceExecutor& operator=(const DeviceExecutor&) = delete;

  void copy(std::byte* target, const std::byte* source, std::size_t size_bytes) override;
  void start_sum(std::byte* target, const std::byte* source, std::size_t size_bytes) override;
  void set_aside(std::byte* target, const std::byte* source, std::size_t size_bytes) override;
  void reduce(std::byte* target, const std::byte* source, std::size_t size_bytes,
              const Reduction& reduction) override;
  void scale(std::byte* target, const std::byte* source, std::size_t size_bytes, DType dtype,
             double factor) override;
  void encode(const EncodeLaunch& launch) override;
  void decode(const DecodeLaunch& launch) override;
  void add_residual(const ResidualLaunch& launch) override;

  void launch(const KernelLaunch& launch);
  void load(const void* kernel);
  // Runs `call` with the stream, in which it enqueues work.
  void enqueue(const std::function<void(StreamHandle)>& call);

  // A place in another stream: behind all work that it has been given. The executor outlives it.
  using Place = std::shared_ptr<const EventHandle>;
  Place place_in(StreamHandle stream);
  // Work that is enqueued here later runs after everything before the place.
  void start_after(const Place& place);
  void start_after(StreamHandle stream) { start_after(place_in(stream)); }
  // Work that `stream` is given later runs after the mark.
  void finish_before(StreamHandle stream, uint64_t mark);
  void finish_before(StreamHandle stream) { finish_before(stream, mark()); }

  // A mark behind everything that was enqueued so far; 0 if that is nothing.
  uint64_t mark();
  // The same, but a sum that is held back stays so, and the mark comes behind its launch.
  uint64_t mark_later();
  // The last mark that has passed.
  uint64_t passed();
  // Calls `call` once everything that was enqueued so far is done: in a later run_due(), or in
  // finish().
  void when_passed(std::function<void()> call);
  // Runs the calls that are due, in order. By one thread at a time.
  void run_due();
  // Whether calls are left, so that run_due() must be called again.
  bool has_calls() const noexcept { return waiting_calls_.load(std::memory_order_acquire) > 0; }
  // Keeps `memory` while the result lives, and then until all work that was enqueued by that time
  // is done.
  std::shared_ptr<void> keep(std::shared_ptr<void> memory);
  // Blocks the calling thread until everything that was enqueued is done.
  void synchronize();
  // The same, but ignores a device that has failed; then runs all calls, due or not.
  void finish() noexcept;

 private:
  template <typename Call>
  auto on_device(Call call);
  template <typename Call>
  void enqueue_work(Call call);
  void launch_held();
  EventHandle take_event();
  uint64_t mark_locked();
  uint64_t record_mark();
  void run_calls(uint64_t mark) noexcept;

  DeviceRuntime& runtime_;
  const int device_;
  const StreamHandle stream_;
  std::atomic<int> waiting_calls_{0};  // of calls_, or about to run
  std::mutex mutex_;                   // guards what follows
  HeldSum held_;
  bool owes_mark_ = false;  // mark_later() has returned the mark behind held_
  bool marks_end_ = true;   // nothing was enqueued since the last mark
  uint64_t marked_ = 0;
  uint64_t passed_ = 0;
  std::deque<EventHandle> pending_;  // of the marks after passed_, in order
  std::vector<EventHandle> spare_;
  std::deque<std::pair<uint64_t, std::function<void()>>> calls_;  // by mark, in order
};

// Memory of a heap for one executor's operations. Freed memory returns to the heap when the work
// that uses it has passed. Ownership: heap and executor outlive it.
class DeviceScratchMemory final : public Allocator {
 public:
  DeviceScratchMemory(DeviceHeap& heap, DeviceExecutor& executor)
      : heap_(heap), executor_(executor) {}
  std::byte* allocate(std::size_t size_bytes) override { return heap_.allocate(size_bytes); }
  void free(std::byte* memory) noexcept override;

 private:
  DeviceHeap& heap_;
  DeviceExecutor& executor_;
};

}  // namespace fastgpu
