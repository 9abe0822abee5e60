// The key-value store ranks meet at: c10d's in training, one in memory in tests. Used at set-up
// only.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "base/clock.h"

namespace fastgpu {

class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  // Waits until the key is there; raises RendezvousError naming it when the deadline passes.
  virtual std::string get(const std::string& key, TimeNs deadline) = 0;
};

// For tests: any number of ranks in one process. Thread safety: all calls, any thread.
class MemoryStore : public Store {
 public:
  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, TimeNs deadline) override;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
};

}  // namespace fastgpu
