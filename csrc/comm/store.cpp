#include "comm/store.h"

#include "base/error.h"

namespace fastgpu {

void MemoryStore::set(const std::string& key, const std::string& value) {
  {
    const std::lock_guard lock(mutex_);
    values_[key] = value;
  }
  changed_.notify_all();
}

std::string MemoryStore::get(const std::string& key, TimeNs deadline) {
  std::unique_lock lock(mutex_);
  const auto there = [&] { return values_.count(key) != 0; };
  if (deadline == kNever) {
    changed_.wait(lock, there);
  } else {
    const std::chrono::steady_clock::time_point until{std::chrono::nanoseconds(deadline)};
    if (!changed_.wait_until(lock, until, there)) {
      raise(ErrorKind::kRendezvous, "the store has no key '" + key + "' at the deadline");
    }
  }
  return values_[key];
}

}  // namespace fastgpu
