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
  int64_t add(const std::string& key) override;
  std::optional<std::string> try_get(const std::string& key) override;

 private:
  c10::intrusive_ptr<c10d::Store> store_;
};

struct StoreAddress {
  std::string host;  // empty if the store is not a TCPStore
  uint16_t port = 0;
};
// Where the server of the store is reached.
StoreAddress address_of(const c10::intrusive_ptr<c10d::Store>& store);

// This rank reads the TCPStore no more, and rank 0 may end it. await_readers() waits until all
// ranks have said so, but a second at most.
void tell_that_read(const c10::intrusive_ptr<c10d::Store>& store, int rank);
void await_readers(const c10::intrusive_ptr<c10d::Store>& store, int world);

// Waits until the server of a TCPStore has ended, a second at most. Returns at once if the program
// still holds the store, which then does not end with the group.
void await_end_of(const c10::intrusive_ptr<c10d::Store>& store);

}  // namespace fastgpu
