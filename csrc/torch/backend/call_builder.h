// Turns one call of c10d into operations of the communicator and one c10d Work.
//
//   CallBuilder builder(backend, {OpType::ALLREDUCE, "fastgpu:all_reduce"}, tensors, opts);
//   CollectiveCall call = builder.call(Collective::kAllReduce, elements);
//   call.data = builder.packed().update(tensor);
//   builder.run(std::move(call));
//   return builder.finish(tensors);
//
// Ownership: an object on the caller's stack. Threading: the caller's thread only.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "torch/backend/elements.h"
#include "torch/backend/packed_tensors.h"
#include "torch/backend/work.h"

namespace fastgpu {

class TorchBackend;

struct OperationName {
  c10d::OpType type;
  const char* title;  // as the profiler shows it, for example "fastgpu:all_reduce"
  // The user's name of the call, for errors, if it is not the rest of the title.
  const char* user_name = nullptr;

  const char* name() const {
    return user_name != nullptr ? user_name : title + sizeof("fastgpu:") - 1;
  }
};

// A place in a window.
struct PutTarget {
  int peer = kNoRank;
  uint32_t window = 0;
  uint64_t offset_bytes = 0;
  std::byte* memory = nullptr;  // the place as mapped by this process; nullptr: not mapped
};

class CallBuilder {
 public:
  // The profiler shows the shapes of `inputs`. `opts` is any of c10d's option structs.
  template <typename CallOptions>
  CallBuilder(TorchBackend& backend, const OperationName& operation, const TensorList& inputs,
              const CallOptions& opts)
      : CallBuilder(backend, operation, inputs) {
    // kUnsetTimeout is negative: the group's.
    if (opts.timeout.count() >= 0) set_timeout_ms(opts.timeout.count());
    synchronous_ = !opts.asyncOp;
  }
  CallBuilder(TorchBackend& backend, const OperationName& operation, const TensorList& inputs);

  const char* op() const { return op_; }
  // The tensors of the next operation.
  PackedTensors& packed();
  CollectiveCall call(Collective collective, const Elements& elements) const;
  CollectiveCall reduction(Collective collective, const Elements& elements,
                           const c10d::ReduceOp& reduce_op) const;

  // Starts an operation on the packed tensors. A call may start several operations.
  void run(CollectiveCall call);
  // From now on run() only collects, and finish() starts the operations. So every argument is
  // checked before the first operation begins.
  void collect() { collects_ = true; }
  void send(int peer, int tag, const at::Tensor& tensor);
  void recv(int peer, int tag, const at::Tensor& tensor);

  // One-sided calls (window.h). Signals are messages without content.
  void put(const PutTarget& target, const at::Tensor& tensor);
  void signal(int peer, uint32_t tag);
  void await_signal(int peer, uint32_t tag);
  // Runs `body` at once, as the operation of the call. Estimates leave it out.
  void perform(const std::function<void()>& body);

  c10::intrusive_ptr<c10d::Work> finish(TensorList outputs);
  // The same for a call whose outputs are lists: the value of its future is a list of lists.
  c10::intrusive_ptr<c10d::Work> finish_lists(const std::vector<TensorList>& lists);

 private:
  void set_timeout_ms(int64_t timeout_ms);
  // Whether this thread estimates; then the call is added to the estimate.
  bool estimated(const MessageCall& call);
  MessageCall message(int peer, uint32_t tag) const;
  MessageCall message(int peer, int tag, const at::Tensor& tensor) const;
  std::shared_ptr<PackedTensors> take_packed();
  void start(CollectiveCall call);
  // Calls `begin`, which starts an operation, and adds the operation to the Work. An error gets the
  // name of this call.
  template <typename Begin>
  void add(Begin begin);
  // Makes the call one on the tensors' GPU, if they are on one.
  template <typename Call>
  void place(Call& call, const PackedTensors& packed);

  TorchBackend& backend_;
  const char* op_;
  int64_t timeout_ms_ = 0;
  bool synchronous_ = false;
  bool collects_ = false;
  std::vector<CollectiveCall> collected_;
  std::shared_ptr<PackedTensors> packed_;
  c10::intrusive_ptr<TorchWork> work_;
};

}  // namespace fastgpu
