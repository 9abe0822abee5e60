#include "torch/backend/store.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/error.h"

namespace fastgpu {
namespace {

// A get that waits locks the store, and other threads may make groups on the same store. So a long
// wait is split into slices of this length.
constexpr TimeNs kSlice = 500 * kMillisecond;

[[noreturn]] void raise_lost(const std::string& key, const std::string& reason) {
  raise(ErrorKind::kRendezvous, "the store failed at key '" + key + "': " + reason +
                                    "; check that the process that serves it (rank 0, or torchrun) "
                                    "still runs and can be reached");
}

}  // namespace

void TorchStore::set(const std::string& key, const std::string& value) {
  try {
    store_->set(key, value);
  } catch (const c10::Error& error) {
    raise_lost(key, error.what_without_backtrace());
  }
}

std::optional<std::string> TorchStore::try_get(const std::string& key, TimeNs deadline) {
  while (true) {
    const TimeNs now = now_ns();
    // At least 1 ms: a store takes a time-out of 0 to mean its default.
    const TimeNs slice = std::clamp<TimeNs>(deadline - now, kMillisecond, kSlice);
    try {
      store_->wait({key}, std::chrono::milliseconds(slice / kMillisecond));
      return store_->get_to_str(key);
    } catch (const c10::DistNetworkError& error) {
      raise_lost(key, error.what_without_backtrace());
    } catch (const c10::Error& error) {
      // Stores report a time-out in different ways, FileStore only in its text. So an error that
      // comes before the time is over is another error.
      if (now_ns() - now < slice / kMillisecond * kMillisecond) {
        raise_lost(key, error.what_without_backtrace());
      }
      if (now_ns() >= deadline) return std::nullopt;
    }
  }
}

std::string TorchStore::get(const std::string& key, TimeNs deadline) {
  if (auto value = try_get(key, deadline)) return *std::move(value);
  raise(ErrorKind::kRendezvous, "no rank wrote key '" + key + "' to the store in time");
}

StoreAddress address_of(const c10::intrusive_ptr<c10d::Store>& store) {
  c10d::Store* bare = store.get();
  c10::intrusive_ptr<c10d::Store> held;
  if (auto* prefixed = dynamic_cast<c10d::PrefixStore*>(bare)) {
    held = prefixed->getUnderlyingNonPrefixStore();
    bare = held.get();
  }
  if (auto* tcp = dynamic_cast<c10d::TCPStore*>(bare)) return {tcp->getHost(), tcp->getPort()};
  return {};
}

c10::intrusive_ptr<c10d::Store> fresh_part(const c10::intrusive_ptr<c10d::Store>& store, int rank) {
  try {
    const int64_t use = store->add("uses/" + std::to_string(rank), 1);
    return c10::make_intrusive<c10d::PrefixStore>("use" + std::to_string(use) + "/", store);
  } catch (const c10::Error& error) {
    raise_lost("uses/" + std::to_string(rank), error.what_without_backtrace());
  }
}

}  // namespace fastgpu
