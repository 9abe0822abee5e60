// The collectives that take a list of tensors, one a rank.
#include "torch/backend/backend.h"
#include "torch/backend/call_builder.h"
#include "torch/backend/errors.h"

namespace fastgpu {
namespace {

using c10d::OpType;

const TensorList& single_list(const char* op, const std::vector<TensorList>& lists, int world,
                              const char* what) {
  if (lists.size() != 1) {
    raise_invalid(
        op, std::string("takes one list of ") + what + ", not " + std::to_string(lists.size()));
  }
  check_list_size(op, what, lists.front().size(), static_cast<std::size_t>(world));
  return lists.front();
}

// Raises unless all of `list` are of `like`'s dtype; whether all have its number of elements.
bool all_alike(const char* op, const TensorList& list, const at::Tensor& like) {
  bool alike = true;
  for (const at::Tensor& tensor : list) {
    check_same_dtype(op, tensor, like);
    alike = alike && tensor.numel() == like.numel();
  }
  return alike;
}

void check_all_alike(const char* op, const TensorList& list, const at::Tensor& like) {
  if (!all_alike(op, list, like)) {
    raise_invalid(op,
                  "the tensors of the list must have the number of elements of the single "
                  "tensor, " +
                      std::to_string(like.numel()));
  }
}

uint64_t size_bytes(const TensorList& list) {
  uint64_t total = 0;
  for (const at::Tensor& tensor : list) total += tensor.nbytes();
  return total;
}

// The input, in a copy where it shares memory with what is written.
const std::byte* read_beside(PackedTensors& memory, const TensorList& input, const std::byte* data,
                             uint64_t data_bytes) {
  const std::byte* own = memory.read(input);
  return overlap(own, size_bytes(input), data, data_bytes) ? memory.read_copy(input) : own;
}

void all_gather(CallBuilder& launch, const TensorList& outputs, const at::Tensor& input, int rank) {
  if (all_alike(launch.op(), outputs, input)) {
    CollectiveCall call = launch.call(Collective::kAllGather, elements_of(input));
    call.data = launch.memory().write(outputs);
    call.input = read_beside(launch.memory(), {input}, call.data, size_bytes(outputs));
    launch.run(std::move(call));
    return;
  }
  const int64_t own_elements = outputs[static_cast<std::size_t>(rank)].numel();
  if (own_elements != input.numel()) {
    raise_invalid(launch.op(), "the output for this rank has " + std::to_string(own_elements) +
                                   " elements, and its input " + std::to_string(input.numel()));
  }
  // Parts of different sizes: a broadcast from each rank.
  for (std::size_t root = 0; root < outputs.size(); ++root) {
    const bool mine = root == static_cast<std::size_t>(rank);
    CollectiveCall call = launch.call(Collective::kBroadcast, elements_of(outputs[root]));
    call.root = static_cast<int>(root);
    call.data = launch.memory().write(outputs[root]);
    if (mine) launch.memory().feed(input, call.data);
    launch.run(std::move(call));
  }
}

}  // namespace

TorchBackend::WorkPtr TorchBackend::allgather(Lists& outputs, TensorList& inputs,
                                              const c10d::AllgatherOptions& opts) {
  CallBuilder launch(*this, {OpType::ALLGATHER, "fastgpu:all_gather"}, inputs, opts);
  const at::Tensor& input = single(launch.op(), inputs);
  const TensorList& list = single_list(launch.op(), outputs, getSize(), "output tensors");
  all_gather(launch, list, input, getRank());
  return launch.finish(list);
}

TorchBackend::WorkPtr TorchBackend::allgather_coalesced(Lists& outputs, TensorList& inputs,
                                                        const c10d::AllgatherOptions& opts) {
  CallBuilder launch(*this, {OpType::ALLGATHER_COALESCED, "fastgpu:all_gather_coalesced"}, inputs,
                     opts);
  check_list_size(launch.op(), "the list of output lists", outputs.size(),
                  static_cast<std::size_t>(getSize()));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    TensorList list;
    for (const TensorList& of_rank : outputs) {
      check_list_size(launch.op(), "a list of outputs", of_rank.size(), inputs.size());
      list.push_back(of_rank[i]);
    }
    all_gather(launch, list, inputs[i], getRank());
  }
  return launch.finish_lists(outputs);
}

TorchBackend::WorkPtr TorchBackend::gather(Lists& outputs, TensorList& inputs,
                                           const c10d::GatherOptions& opts) {
  CallBuilder launch(*this, {OpType::GATHER, "fastgpu:gather"}, inputs, opts);
  const at::Tensor& input = single(launch.op(), inputs);
  CollectiveCall call = launch.call(Collective::kGather, elements_of(input));
  call.root = root_of(launch.op(), opts.rootRank, getSize());
  TensorList list;
  if (call.root == getRank()) {
    list = single_list(launch.op(), outputs, getSize(), "output tensors");
    check_all_alike(launch.op(), list, input);
    call.data = launch.memory().write(list);
    call.input = read_beside(launch.memory(), {input}, call.data, size_bytes(list));
  } else {
    if (!outputs.empty()) raise_invalid(launch.op(), "requires empty output on non-root");
    call.input = launch.memory().read(input);
  }
  launch.run(std::move(call));
  return launch.finish(std::move(list));
}

TorchBackend::WorkPtr TorchBackend::scatter(TensorList& outputs, Lists& inputs,
                                            const c10d::ScatterOptions& opts) {
  CallBuilder launch(*this, {OpType::SCATTER, "fastgpu:scatter"},
                     inputs.empty() ? TensorList() : inputs.front(), opts);
  const at::Tensor& output = single(launch.op(), outputs);
  CollectiveCall call = launch.call(Collective::kScatter, elements_of(output));
  call.root = root_of(launch.op(), opts.rootRank, getSize());
  call.data = launch.memory().write(output);
  if (call.root == getRank()) {
    const TensorList& list = single_list(launch.op(), inputs, getSize(), "input tensors");
    check_all_alike(launch.op(), list, output);
    call.input = read_beside(launch.memory(), list, call.data, size_bytes(outputs));
  } else if (!inputs.empty()) {
    raise_invalid(launch.op(), "requires empty input on non-root");
  }
  launch.run(std::move(call));
  return launch.finish(outputs);
}

TorchBackend::WorkPtr TorchBackend::reduce_scatter(TensorList& outputs, Lists& inputs,
                                                   const c10d::ReduceScatterOptions& opts) {
  CallBuilder launch(*this, {OpType::REDUCE_SCATTER, "fastgpu:reduce_scatter"},
                     inputs.empty() ? TensorList() : inputs.front(), opts);
  const at::Tensor& output = single(launch.op(), outputs);
  const TensorList& list = single_list(launch.op(), inputs, getSize(), "input tensors");
  const Reduction reduction = reduction_of(launch.op(), opts.reduceOp);
  if (all_alike(launch.op(), list, output)) {
    CollectiveCall call =
        launch.call(Collective::kReduceScatter, reducible_of(launch.op(), output));
    call.reduce_op = reduction.op;
    call.premul_factor = reduction.premul_factor;
    call.data = launch.memory().write(output);
    call.input = read_beside(launch.memory(), list, call.data, size_bytes(outputs));
    launch.run(std::move(call));
    return launch.finish(outputs);
  }
  const int64_t own_elements = list[static_cast<std::size_t>(getRank())].numel();
  if (output.numel() != own_elements) {
    raise_invalid(launch.op(), "the output has " + std::to_string(output.numel()) +
                                   " elements, and this rank's part of the input " +
                                   std::to_string(own_elements));
  }
  // Parts of different sizes: a reduce to each rank.
  for (std::size_t root = 0; root < list.size(); ++root) {
    CollectiveCall call = launch.call(Collective::kReduce, reducible_of(launch.op(), list[root]));
    call.reduce_op = reduction.op;
    call.premul_factor = reduction.premul_factor;
    call.root = static_cast<int>(root);
    if (call.root == getRank()) call.data = launch.memory().write(output);
    call.input = read_beside(launch.memory(), {list[root]}, call.data,
                             call.data == nullptr ? 0 : size_bytes(outputs));
    launch.run(std::move(call));
  }
  return launch.finish(outputs);
}

TorchBackend::WorkPtr TorchBackend::alltoall(TensorList& outputs, TensorList& inputs,
                                             const c10d::AllToAllOptions& opts) {
  CallBuilder launch(*this, {OpType::ALLTOALL, "fastgpu:all_to_all"}, inputs, opts);
  const auto world = static_cast<std::size_t>(getSize());
  check_list_size(launch.op(), "the list of outputs", outputs.size(), world);
  check_list_size(launch.op(), "the list of inputs", inputs.size(), world);
  const Elements first = elements_of(inputs.front());
  CollectiveCall call = launch.call(Collective::kAllToAll, {first.dtype, 0});
  for (std::size_t rank = 0; rank < world; ++rank) {
    check_same_dtype(launch.op(), inputs[rank], inputs.front());
    check_same_dtype(launch.op(), outputs[rank], inputs.front());
    call.send_counts.push_back(elements_of(inputs[rank]).count);
    call.recv_counts.push_back(elements_of(outputs[rank]).count);
  }
  call.data = launch.memory().write(outputs);
  call.input = read_beside(launch.memory(), inputs, call.data, size_bytes(outputs));
  launch.run(std::move(call));
  return launch.finish(outputs);
}

}  // namespace fastgpu
