// The key-value store for the rendezvous of a communicator: c10d's store in training, MemoryStore
// in tests. Nothing uses it after set-up.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "base/clock.h"

namespace fastgpu {

// Invariant: a key keeps its value; the ranks never write a key twice.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  // Waits until some rank has set the key. Raises RendezvousError naming it at the deadline.
  virtual std::string get(const std::string& key, TimeNs deadline) = 0;
};

// For ranks that are threads of one process. Thread safety: any thread may call everything.
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
