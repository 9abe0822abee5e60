// The pretended devices of a process, as the torch device "pretended" uses them: streams with
// numbers, work in streams, and memory that is freed only after the streams that use it.
//
// Memory belongs to the stream that was current when it was allocated. Other streams' work on it
// counts only if use() names them, as with torch's allocator for CUDA.
// Ownership: the machine is never destroyed. Threading: any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device/heap.h"
#include "device/runtime.h"

namespace fastgpu::test {

inline constexpr int kDevices = 2;

struct Block {
  std::byte* memory = nullptr;
  std::size_t size_bytes = 0;
  int device = 0;
  std::mutex mutex;
  std::vector<StreamHandle> users;  // guarded by mutex
};

class Machine {
 public:
  // Made by the first call, with PRETENDED_SEED and PRETENDED_DELAY_US.
  static Machine& of_process();

  DeviceRuntime& runtime() { return *runtime_; }

  // Stream 0 of a device is its default stream.
  StreamHandle stream(int device, int64_t number);
  int64_t make_stream(int device);
  // One of a few streams, in turn.
  int64_t take_pool_stream(int device);

  // Runs `work` in the stream, later. The next synchronize() raises its exception.
  void run(StreamHandle stream, std::function<void()> work);
  // New work in `later` waits for all work that `earlier` has now.
  void order(StreamHandle earlier, StreamHandle later);
  void synchronize(StreamHandle stream);
  void synchronize_device(int device);
  // Until all memory is free that its users do not use any more.
  void await_freed();
  // For the end of the process: everything, and prints what has failed.
  void finish() noexcept;

  Block* allocate(StreamHandle user, std::size_t size_bytes);
  static void use(Block& block, StreamHandle user);
  // The memory may be allocated again once the work that its users have been given is done.
  void free(Block* block) noexcept;
  // From now on, free() overwrites memory with 0xFF before it may be allocated again.
  void overwrite_freed(bool overwrite) { overwrites_ = overwrite; }

 private:
  struct Device {
    std::unique_ptr<DeviceHeap> heap;
    StreamHandle reaper;  // waits for the users of freed memory
    std::mutex mutex;
    std::vector<StreamHandle> streams;  // guarded by mutex; the place is the number
    std::vector<int64_t> pool;          // guarded by mutex
    std::size_t taken = 0;              // guarded by mutex: streams taken from the pool
  };

  Machine();
  void raise_failure();
  Device& device(int number);

  std::unique_ptr<DeviceRuntime> runtime_;
  std::vector<Device> devices_;
  std::atomic<bool> overwrites_{false};
  std::mutex failure_mutex_;
  std::string failure_;  // guarded by failure_mutex_: the first since the last synchronize()
};

}  // namespace fastgpu::test
