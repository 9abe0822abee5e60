// The Work of c10d for one or several operations of a communicator. Futures and profiler events are
// made only on request, because they cost more than a small operation.
//
// Ownership: shared with Python. Operations in flight do not depend on it.
// Threading: add() to seal() are called before the Work is returned to the user; any thread may
// call the rest. Futures are completed on CallbackThreads.
#pragma once

#include <c10/util/SmallVector.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "comm/communicator.h"
#include "torch/backend/torch_version.h"

namespace fastgpu {

class TorchWork final : public c10d::Work {
 public:
  // Starts the profiler's event, if the profiler runs. It shows `title`, for example
  // "fastgpu:all_reduce", and the shapes of `inputs`.
  TorchWork(std::shared_ptr<Communicator> communicator, c10d::OpType type, const char* title,
            const std::vector<at::Tensor>& inputs);

  void add(std::shared_ptr<fastgpu::Work> operation);
  // Where the work of an operation on the GPU ends.
  void add_end(c10::Device device, std::shared_ptr<DeviceEnd> end);
  void set_outputs(std::vector<at::Tensor> outputs) { outputs_ = std::move(outputs); }
  // Makes the value of the future a list of lists with so many outputs each.
  void set_future_lists(std::size_t outputs_each) { outputs_each_ = outputs_each; }
  void set_timeout_ms(int64_t timeout_ms) { timeout_ms_ = timeout_ms; }
  // The number by which completion hooks know this call.
  void set_completion_key(uint64_t key) { completion_key_ = key; }
  // Adds the operations and outputs of `other`.
  void absorb(const TorchWork& other);
  // Nothing is added after this. The profiler's event ends with the last operation.
  void seal();
  struct Outcome {
    bool ok = true;       // of all operations
    TimeNs codec_ns = 0;  // their sum: see Work::codec_ns
  };
  // Calls `callback` once all operations are done. Like Work::on_done.
  void on_end(std::function<void(const Outcome&)> callback);

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override;
  std::vector<at::Tensor> result() override { return outputs_; }
  void synchronize() override { wait(kNoTimeout); }
  // With a `timeout` of 0 only the time-outs of the operations end the wait.
  // On a GPU it returns when all work is enqueued; work that the current stream is given later runs
  // after it.
  bool wait(std::chrono::milliseconds timeout) override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;
  uint64_t getSequencenumber() const override { return sequence_; }
  std::chrono::milliseconds getTimeout() const FASTGPU_SINCE_2_14 {
    return std::chrono::milliseconds(timeout_ms_);
  }
  uint64_t getCompletionKey() const FASTGPU_SINCE_2_15 { return completion_key_; }

 private:
  using Operations = c10::SmallVector<std::shared_ptr<fastgpu::Work>, 1>;

  static const Failure* first_failure(const Operations& operations);
  // Calls `callback` once all operations are done; at once if they are.
  void when_done(std::function<void()> callback);
  c10::intrusive_ptr<c10::ivalue::Future> future(bool of_result);
  bool is_enqueued() const;

  const std::shared_ptr<Communicator> communicator_;
  Operations operations_;
  std::optional<c10::Device> device_;
  c10::SmallVector<std::shared_ptr<DeviceEnd>, 1> ends_;  // of operations on device_
  std::vector<at::Tensor> outputs_;
  std::size_t outputs_each_ = 0;
  uint64_t sequence_ = 0;
  int64_t timeout_ms_ = 0;
  uint64_t completion_key_ = 0;
  // Guarded by mutex_ of the base.
  c10::intrusive_ptr<c10::ivalue::Future> outputs_future_;
  c10::intrusive_ptr<c10::ivalue::Future> result_future_;
};

}  // namespace fastgpu
