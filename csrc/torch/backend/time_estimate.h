// The predicted time of the calls that a thread makes between start() and end(), which are not
// carried out. Calls of other threads are carried out as usual.
// Thread safety: all calls, any thread; one thread estimates at a time.
#pragma once

#include <atomic>
#include <thread>

namespace fastgpu {

class TimeEstimate {
 public:
  // False if an estimate has started already.
  bool start() {
    if (active_.load()) return false;
    thread_ = std::this_thread::get_id();
    total_us_ = 0;
    active_.store(true);
    return true;
  }
  // False if the caller has not started an estimate.
  bool end(double& total_us) {
    if (!of_this_thread()) return false;
    total_us = total_us_;
    active_.store(false);
    return true;
  }
  bool of_this_thread() const {
    return active_.load(std::memory_order_relaxed) && thread_ == std::this_thread::get_id();
  }
  // Called by the thread that estimates.
  void add(double us) { total_us_ += us; }

 private:
  std::atomic<bool> active_{false};
  std::thread::id thread_;  // written before active_
  double total_us_ = 0;     // used by thread_ only
};

}  // namespace fastgpu
