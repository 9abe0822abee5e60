// The c10d backend: runs the operations of torch.distributed for tensors of the CPU and of one GPU
// on one communicator.
// Each operation checks its tensors and hands a call to the communicator (CallBuilder).
// collectives.cpp has the operations on single tensors, lists.cpp those on lists of tensors,
// sparse.cpp, messages.cpp, monitored_barrier.cpp and window.cpp the rest.
//
// Ownership: shared with torch. Operations in flight keep the communicator alive, not the backend.
// Threading: like the communicator. Takes the GIL only to raise an exception.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "comm/communicator.h"
#include "torch/backend/devices.h"
#include "torch/backend/elements.h"
#include "torch/backend/hooks.h"
#include "torch/backend/options.h"
#include "torch/backend/time_estimate.h"
#include "torch/backend/time_limits.h"
#include "torch/backend/torch_version.h"
#include "torch/backend/work.h"

namespace fastgpu {

class PackedTensors;

class TorchBackend final : public c10d::Backend {
 public:
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  using Lists = std::vector<TensorList>;
  using StorePtr = c10::intrusive_ptr<c10d::Store>;

  // `options` has the name of the group, its time-out and its ranks. Waits for the other ranks.
  TorchBackend(const StorePtr& store, int rank, int size, const BackendOptions& options);
  ~TorchBackend() override;

  const std::string getBackendName() const override { return "fastgpu"; }
  // The constructor connects the ranks, so a group can be split before its first operation.
  bool isInitialized() FASTGPU_SINCE_2_15 { return true; }
  c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override;
  void addEphemeralTimeout(const std::chrono::milliseconds& timeout) FASTGPU_SINCE_2_14 {
    extra_time_->add(timeout.count());
  }
  void setSequenceNumberForGroup() override {}  // every rank counts from 0
  uint64_t getSequenceNumberForGroup() override { return communicator_->sequence(); }
  void abort() override;
  void shutdown() override;
  c10d::ErrorType getError() override;

  // False only makes batch_isend_irecv return one Work per operation. startCoalescing() and
  // endCoalescing() work nevertheless.
  bool supportsCoalescing() const override { return false; }
  void startCoalescing() override;
  WorkPtr endCoalescing() override;

  // Between start and end the calls of this thread are priced by the cost model, not carried out.
  bool supportsTimeEstimation() const override { return true; }
  void startTimeEstimate() FASTGPU_SINCE_2_15;
  float endTimeEstimate() FASTGPU_SINCE_2_15;  // in microseconds

  bool supportsAbortHooks() const FASTGPU_SINCE_2_15 { return true; }
  void registerAbortHook(int64_t hook_id, Hooks::AbortHook hook) FASTGPU_SINCE_2_14 {
    hooks_->add_abort(hook_id, std::move(hook));
  }
  void unregisterAbortHook(int64_t hook_id) FASTGPU_SINCE_2_14 { hooks_->remove_abort(hook_id); }
  bool supportsCompletionHooks() const FASTGPU_SINCE_2_15 { return FASTGPU_TORCH_SINCE(15); }
  void registerCompletionHook(int64_t hook_id, CompletionHook hook) FASTGPU_SINCE_2_15 {
    hooks_->add_completion(hook_id, std::move(hook));
  }
  void unregisterCompletionHook(int64_t hook_id) FASTGPU_SINCE_2_15 {
    hooks_->remove_completion(hook_id);
  }

#if FASTGPU_TORCH_SINCE(14)
  bool supportsWindow() const override { return true; }
  c10::intrusive_ptr<c10d::Window> new_window(const std::optional<at::Tensor>& tensor) override;
#endif

  bool supportsSplitting() const override { return true; }
  c10::intrusive_ptr<c10d::Backend> split(
      const StorePtr& store, const std::vector<int>& ranks,
      const c10::intrusive_ptr<c10d::Backend::Options>& opts) override;
  int split_count() const { return split_count_; }

  // DistributedDataParallel takes the memory of its buckets from here, unless the environment has
  // DDP_DISABLE_COMM_MEM=1, which is torch's default.
  // A negative index is the CPU's.
  bool supportsTensorAlloc(c10::DeviceIndex index) override { return index < 0 || has_devices(); }
  at::Tensor allocateTensor(long size, at::TensorOptions options = {}) override;

  WorkPtr broadcast(TensorList& tensors, const c10d::BroadcastOptions& opts) override;
  WorkPtr allreduce(TensorList& tensors, const c10d::AllreduceOptions& opts) override;
  WorkPtr allreduce_sparse(TensorList& tensors, const c10d::AllreduceOptions& opts) override;
  WorkPtr allreduce_coalesced(TensorList& tensors,
                              const c10d::AllreduceCoalescedOptions& opts) override;
  WorkPtr reduce(TensorList& tensors, const c10d::ReduceOptions& opts) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input,
                          const c10d::AllgatherOptions& opts) override;
  WorkPtr allgather_into_tensor_coalesced(TensorList& outputs, TensorList& inputs,
                                          const c10d::AllgatherOptions& opts) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& opts) override;
  WorkPtr reduce_scatter_tensor_coalesced(TensorList& outputs, TensorList& inputs,
                                          const c10d::ReduceScatterOptions& opts) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_splits,
                        std::vector<int64_t>& input_splits,
                        const c10d::AllToAllOptions& opts) override;
  WorkPtr barrier(const c10d::BarrierOptions& opts) override;
  void monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) override;

  WorkPtr allgather(Lists& outputs, TensorList& inputs,
                    const c10d::AllgatherOptions& opts) override;
  WorkPtr allgather_coalesced(Lists& outputs, TensorList& inputs,
                              const c10d::AllgatherOptions& opts) override;
  WorkPtr gather(Lists& outputs, TensorList& inputs, const c10d::GatherOptions& opts) override;
  WorkPtr gather_single(at::Tensor& output, at::Tensor& input,
                        const c10d::GatherOptions& opts) FASTGPU_SINCE_2_14;
  WorkPtr scatter(TensorList& outputs, Lists& inputs, const c10d::ScatterOptions& opts) override;
  WorkPtr reduce_scatter(TensorList& outputs, Lists& inputs,
                         const c10d::ReduceScatterOptions& opts) override;
  WorkPtr alltoall(TensorList& outputs, TensorList& inputs,
                   const c10d::AllToAllOptions& opts) override;

  WorkPtr send(TensorList& tensors, int peer, int tag) override;
  WorkPtr recv(TensorList& tensors, int peer, int tag) override;
  WorkPtr recvAnysource(TensorList& tensors, int tag) override;

  const std::shared_ptr<Communicator>& communicator() const { return communicator_; }
  // Passes the group's description on, for messages. c10d sets it after the backend was made.
  void tell_description() {
    if (!description_told_.load(std::memory_order_relaxed)) tell_new_description();
  }
  const std::shared_ptr<ExtraTime>& extra_time() const { return extra_time_; }
  const std::shared_ptr<Hooks>& hooks() const { return hooks_; }
  TimeEstimate& estimate() { return estimate_; }
  // Adds `work` to the result of endCoalescing(), if this thread is coalescing.
  void record(const TorchWork& work);

 private:
  void tell_new_description();
  // Of an all_reduce; changes its dtype if it widens the tensor.
  void set_data(CollectiveCall& call, PackedTensors& packed, const TensorList& tensors) const;
  void await_verdict(const std::string& prefix, int64_t timeout_ms);
  void await_ranks(const std::string& prefix, int64_t timeout_ms, bool name_all);

  const StorePtr store_;  // for the monitored barrier and splits
  BackendOptions options_;
  Codec codec_ = Codec::kNone;  // the group's
  std::shared_ptr<Communicator> communicator_;
  std::atomic<bool> description_told_{false};
  const std::shared_ptr<ExtraTime> extra_time_ = std::make_shared<ExtraTime>();
  const std::shared_ptr<Hooks> hooks_ = std::make_shared<Hooks>();
  TimeEstimate estimate_;
  int monitored_barriers_ = 0;
  uint32_t next_window_ = 0;

  int split_count_ = 0;
  // c10d calls split() once per device type with the same store; all calls return one backend.
  StorePtr last_split_store_;
  c10::weak_intrusive_ptr<c10d::Backend> last_split_;

  std::atomic<bool> coalescing_{false};
  std::thread::id coalescing_thread_;        // written before coalescing_
  c10::intrusive_ptr<TorchWork> coalesced_;  // used by coalescing_thread_ only
};

}  // namespace fastgpu
