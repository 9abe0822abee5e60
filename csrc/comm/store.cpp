#include "comm/store.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace fastgpu {
namespace {

constexpr TimeNs kShortestPause = 100 * kMicrosecond;
constexpr TimeNs kWaitPerPause = 8;  // a pause is an eighth of the time waited so far

}  // namespace

std::optional<std::string> wait_for(Store& store, const std::string& key, TimeNs deadline,
                                    const std::function<void()>& meanwhile) {
  for (const TimeNs start = now_ns();;) {
    if (auto value = store.try_get(key)) return value;
    if (meanwhile) meanwhile();
    const TimeNs now = now_ns();
    if (now >= deadline) return std::nullopt;
    const TimeNs pause = std::clamp((now - start) / kWaitPerPause, kShortestPause, kLongestPause);
    std::this_thread::sleep_for(std::chrono::nanoseconds(std::min(pause, deadline - now)));
  }
}

void MemoryStore::set(const std::string& key, const std::string& value) {
  const std::lock_guard lock(mutex_);
  values_[key] = value;
}

int64_t MemoryStore::add(const std::string& key) {
  const std::lock_guard lock(mutex_);
  return ++numbers_[key];
}

std::optional<std::string> MemoryStore::try_get(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  return found->second;
}

}  // namespace fastgpu
