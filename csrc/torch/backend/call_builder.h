// One call of c10d on its way to the communicator: its names, its time-out, its memory, its Work.
// Lives on the caller's stack. Threading: the caller's.
#pragma once

#include <chrono>
#include <memory>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <utility>

#include "comm/communicator.h"
#include "torch/backend/elements.h"
#include "torch/backend/packed_tensors.h"
#include "torch/backend/work.h"

namespace fastgpu {

class TorchBackend;

struct OperationName {
  c10d::OpType type;
  const char* title;  // as the profiler shows it: "fastgpu:all_reduce"

  const char* name() const { return title + sizeof("fastgpu:") - 1; }
};

class CallBuilder {
 public:
  // `inputs` are those whose shapes the profiler shows. `opts`: any of c10d's options.
  template <typename CallOptions>
  CallBuilder(TorchBackend& backend, const OperationName& operation, const TensorList& inputs,
              const CallOptions& opts)
      : CallBuilder(backend, operation, inputs) {
    timeout_ms_ = opts.timeout.count() > 0 ? opts.timeout.count() : -1;
    synchronous_ = !opts.asyncOp;
  }
  CallBuilder(TorchBackend& backend, const OperationName& operation, const TensorList& inputs);

  const char* op() const { return op_; }
  // What the next operation reads and writes.
  PackedTensors& memory();
  CollectiveCall call(Collective collective, const Elements& elements) const;

  // Hands an operation over, with the memory; may be repeated.
  void run(CollectiveCall call);
  void send(int peer, int tag, const at::Tensor& tensor);
  void recv(int peer, int tag, const at::Tensor& tensor);

  c10::intrusive_ptr<c10d::Work> finish(TensorList outputs);
  // As c10d has it where the outputs are lists of several: so is the future's value.
  c10::intrusive_ptr<c10d::Work> finish_lists(const std::vector<TensorList>& lists);

 private:
  MessageCall message(int peer, int tag, const at::Tensor& tensor) const;
  std::shared_ptr<PackedTensors> take_memory();
  // Runs `start`, which makes an operation of the communicator; what it raises names this call.
  template <typename Start>
  void add(Start start);

  TorchBackend& backend_;
  const char* op_;
  int64_t timeout_ms_ = -1;
  bool synchronous_ = false;
  std::shared_ptr<PackedTensors> memory_;
  c10::intrusive_ptr<TorchWork> work_;
};

}  // namespace fastgpu
