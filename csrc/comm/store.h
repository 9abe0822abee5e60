// The key-value store for the rendezvous of a communicator: c10d's store in training, MemoryStore
// in tests. Nothing uses it after set-up.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"

namespace fastgpu {

// Each call raises RendezvousError if the store fails.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  // Adds 1 to the number at the key, at first 0, and returns the sum.
  virtual int64_t add(const std::string& key) = 0;
  // The value of the key; nothing if no rank has set it yet. Does not wait for it.
  virtual std::optional<std::string> try_get(const std::string& key) = 0;
};

// Waits until some rank has set the key; returns nothing at the deadline. `meanwhile` is called
// after every attempt that found nothing, and may raise to end the wait.
//
// It asks again and again, with pauses that grow to kLongestPause. The stores of c10d can wait by
// themselves, but while they do, other threads cannot use them, and TCPStore logs every time-out.
std::optional<std::string> wait_for(Store& store, const std::string& key, TimeNs deadline,
                                    const std::function<void()>& meanwhile = {});
inline constexpr TimeNs kLongestPause = 200 * kMillisecond;

// For ranks that are threads of one process. Thread safety: any thread may call everything.
class MemoryStore : public Store {
 public:
  void set(const std::string& key, const std::string& value) override;
  int64_t add(const std::string& key) override;
  std::optional<std::string> try_get(const std::string& key) override;

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
  std::map<std::string, int64_t> numbers_;
};

}  // namespace fastgpu
