// Streams and events of the pretended runtime.
// Threading: all calls, any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "pretended_runtime.h"

namespace fastgpu::test {

// One record of an event. An event may be recorded again, in another stream, while streams still
// wait for the record before.
struct Record {
  std::mutex mutex;
  std::condition_variable changed;
  bool passed = false;

  bool has_passed() {
    const std::lock_guard lock(mutex);
    return passed;
  }
  void pass() {
    const std::lock_guard lock(mutex);
    passed = true;
    changed.notify_all();
  }
  void await() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return passed; });
  }
};

struct PretendedEvent {
  std::mutex mutex;
  std::shared_ptr<Record> latest;  // guarded by mutex; nullptr: never recorded

  std::shared_ptr<Record> get() {
    const std::lock_guard lock(mutex);
    return latest;
  }
};

struct PretendedStream {
  PretendedStream(std::mutex& turns_of_device, uint64_t seed, int delay_us)
      : turns(turns_of_device), random(seed), most_delay_us(delay_us), thread([this] { run(); }) {}
  ~PretendedStream() {
    {
      const std::lock_guard lock(mutex);
      ends = true;
    }
    changed.notify_all();
    thread.join();
  }
  PretendedStream(const PretendedStream&) = delete;
  PretendedStream& operator=(const PretendedStream&) = delete;

  void push(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex);
      if (captured) return captured->push_back(std::move(work));
      queue.push_back(std::move(work));
    }
    changed.notify_all();
  }

  void synchronize() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return queue.empty(); });
  }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return ends || !queue.empty(); });
      if (queue.empty()) return;
      const std::function<void()> work = queue.front();
      lock.unlock();
      if (most_delay_us > 0 && random() % 3 == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % most_delay_us));
      }
      work();
      lock.lock();
      queue.pop_front();  // last, so that an empty queue means that all is done
      changed.notify_all();
    }
  }

  std::mutex& turns;    // of the device
  std::mt19937 random;  // the thread's
  const int most_delay_us;
  std::mutex mutex;  // guards queue, captured and ends
  std::condition_variable changed;
  std::deque<std::function<void()>> queue;
  std::optional<PretendedGraph> captured;  // while the stream is being captured
  bool ends = false;
  std::thread thread;  // last, because it uses the other fields
};

}  // namespace fastgpu::test
