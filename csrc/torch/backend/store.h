// c10d's store as the communicator's.
// Ownership: shares the store. Thread safety: as the store's; set-up only. Never holds the GIL.
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
  // The same; nothing when the deadline passes.
  std::optional<std::string> try_get(const std::string& key, TimeNs deadline);

 private:
  c10::intrusive_ptr<c10d::Store> store_;
};

struct StoreAddress {
  std::string host;  // empty: the store is no TCPStore
  uint16_t port = 0;
};
StoreAddress address_of(const c10::intrusive_ptr<c10d::Store>& store);

// A part of `store` that nothing was written to before: this rank's n-th use of it, which is the
// n-th of every rank of a group that makes and ends its communicators together. So a job may
// destroy its process group and make it again on the same store.
c10::intrusive_ptr<c10d::Store> fresh_part(const c10::intrusive_ptr<c10d::Store>& store, int rank);

}  // namespace fastgpu
