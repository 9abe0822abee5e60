// Makes a store of c10d usable as the communicator's store.
// Ownership: shares the store. Thread safety: that of the store. Callers must not hold the GIL.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "comm/store.h"

namespace fastgpu {

class TorchStore final : public Store {
 public:
  explicit TorchStore(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}

  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, TimeNs deadline) override;
  // Like get(), but returns nothing at the deadline.
  std::optional<std::string> try_get(const std::string& key, TimeNs deadline);

 private:
  c10::intrusive_ptr<c10d::Store> store_;
};

struct StoreAddress {
  std::string host;  // empty if the store is not a TCPStore
  uint16_t port = 0;
};
// Where the server of the store is reached.
StoreAddress address_of(const c10::intrusive_ptr<c10d::Store>& store);

// A part of `store` with a prefix that has not been used before, so that a job may destroy its
// process group and make it again on the same store. The prefix contains the number of this rank's
// uses of the store, which must be equal on all ranks.
c10::intrusive_ptr<c10d::Store> fresh_part(const c10::intrusive_ptr<c10d::Store>& store, int rank);

}  // namespace fastgpu
