// c10d's Work over one or several operations of a communicator.
//
// What costs is made only when asked for: a future (completed on CallbackThreads), a profiler
// event. Ownership: shared with Python; an operation in flight does not need it. Threading: add()
// before it is handed out; the rest from any thread.
#pragma once

#include <c10/util/SmallVector.h>

#include <chrono>
#include <functional>
#include <memory>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "comm/communicator.h"

namespace fastgpu {

class TorchWork final : public c10d::Work {
 public:
  // `title` names the event that the profiler shows ("fastgpu:all_reduce"), with the shapes of
  // `inputs`; the event starts here.
  TorchWork(std::shared_ptr<Communicator> communicator, c10d::OpType type, const char* title,
            const std::vector<at::Tensor>& inputs);

  void add(std::shared_ptr<fastgpu::Work> operation);
  void set_outputs(std::vector<at::Tensor> outputs) { outputs_ = std::move(outputs); }
  // The future's value is lists of so many outputs each, not one list of them all.
  void set_future_lists(std::size_t outputs_each) { outputs_each_ = outputs_each; }
  // Adds the operations and outputs of `other`.
  void absorb(const TorchWork& other);
  // No more is added: the profiler's event ends when all operations have.
  void seal();

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override;
  std::vector<at::Tensor> result() override { return outputs_; }
  void synchronize() override { wait(kNoTimeout); }
  // A `timeout` of 0 is none of its own: the operation's own ends the wait.
  bool wait(std::chrono::milliseconds timeout) override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;
  uint64_t getSequencenumber() const override { return sequence_; }

 private:
  using Operations = c10::SmallVector<std::shared_ptr<fastgpu::Work>, 1>;

  static const Failure* first_failure(const Operations& operations);
  // Runs `callback` when all operations are done, or here and now.
  void when_done(std::function<void()> callback);
  c10::intrusive_ptr<c10::ivalue::Future> future(bool of_result);

  const std::shared_ptr<Communicator> communicator_;
  Operations operations_;
  std::vector<at::Tensor> outputs_;
  std::size_t outputs_each_ = 0;
  uint64_t sequence_ = 0;
  // Guarded by mutex_ of the base.
  c10::intrusive_ptr<c10::ivalue::Future> outputs_future_;
  c10::intrusive_ptr<c10::ivalue::Future> result_future_;
};

}  // namespace fastgpu
