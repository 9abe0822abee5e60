// The windows of torch 2.14 and later: a tensor on each rank for one-sided writes (puts) by other
// ranks, and signals from rank to rank, which say that earlier puts have arrived.
//
//  - put() copies at once if the target is on this host and its tensor comes from
//    fastgpu_comm.empty(). Else it is a message, which the target's engine writes into the tensor.
//  - wait_signal(peer) consumes one signal of that peer. By then all puts that the peer made before
//    the signal have arrived; later puts may have arrived, too. A put does not signal. Signals that
//    no call has consumed stay, even after tensor_deregister().
//  - map_remote_tensor() needs the same host and fastgpu_comm.empty(). The result must not be used
//    after tensor_deregister().
//
// Making windows, tensor_register() and tensor_deregister() are collective: call them in the same
// order on every rank. A bad argument of one rank raises InvalidArgumentError on every rank. If a
// window is destroyed without tensor_deregister(), its memory is revoked, and later puts do not
// reach it.
// Ownership: shared with Python; keeps the backend alive and, if `owning`, the tensor's memory.
// Threading: tensor_register() and tensor_deregister() must not run at the same time as other calls
// of the window. Other calls: any thread.
#pragma once

#include "torch/backend/torch_version.h"

#if FASTGPU_TORCH_SINCE(14)

#include <ATen/core/Tensor.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Window.hpp>
#include <vector>

#include "memory/symmetric_heap.h"
#include "torch/backend/backend.h"
#include "torch/backend/call_builder.h"

namespace fastgpu {

class TorchWindow final : public c10d::Window {
 public:
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;

  // `number` is the same on every rank.
  TorchWindow(c10::intrusive_ptr<TorchBackend> backend, uint32_t number);
  ~TorchWindow() override;

  void tensor_register(const at::Tensor& tensor, bool owning) override;
  void tensor_deregister() override;
  WorkPtr put(const at::Tensor& tensor, int64_t peer, int64_t offset, bool async,
              const c10d::PutOptions& opts) override;
  WorkPtr signal(int64_t peer, bool async, const c10d::SignalOptions& opts) override;
  WorkPtr wait_signal(int64_t peer, bool async, const c10d::WaitSignalOptions& opts) override;
  at::Tensor map_remote_tensor(int64_t peer) override;
  c10d::WindowAttr get_attr(int64_t peer) override;

 private:
  struct Record;
  // The tensor of one rank.
  struct Part {
    at::ScalarType dtype = at::kByte;
    std::vector<int64_t> sizes;
    int64_t count = 0;
    std::optional<SegmentSpan> span;    // in the rank's symmetric memory
    std::shared_ptr<std::byte> memory;  // mapped in this process; nullptr: not mapped

    uint64_t size_bytes() const { return static_cast<uint64_t>(count) * c10::elementSize(dtype); }
  };

  Record record_of(const at::Tensor& tensor) const;
  static Part part_of(const Record& record, int rank);
  std::vector<Record> exchange(const Record& mine) const;
  void check(const std::vector<Record>& records, const std::string& op) const;
  void map_parts();
  void fence();

  int rank() const { return backend_->getRank(); }
  Communicator& communicator() const { return *backend_->communicator(); }
  CallBuilder builder(const char* title, std::chrono::milliseconds timeout, bool async,
                      const TensorList& inputs = {}) const;
  // The part of `peer`. Raises InvalidArgumentError without a tensor, or if `peer` does not exist.
  const Part& part(const std::string& op, int64_t peer) const;
  void check_registered(const std::string& op) const;

  const c10::intrusive_ptr<TorchBackend> backend_;
  const uint32_t number_;
  std::vector<Part> parts_;              // by rank; empty: no tensor is registered
  std::atomic<int64_t> own_signals_{0};  // from this rank to itself, not waited for yet
};

}  // namespace fastgpu

#endif
