// The collectives on lists with one tensor per rank.
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
        op, std::string("takes one list of ") + what + ", and got " + std::to_string(lists.size()));
  }
  check_list_size(op, what, lists.front().size(), static_cast<std::size_t>(world));
  return lists.front();
}

// Whether all tensors of the list have as many elements as `like`. Raises if a dtype differs.
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
    raise_invalid(op, "every tensor of the list must have " + std::to_string(like.numel()) +
                          " elements, as many as the single tensor");
  }
}

// Cuts the tensor into one view per rank. The views are adjacent in memory.
TensorList parts_of(const char* op, const at::Tensor& whole, int world) {
  if (!whole.is_contiguous() || whole.numel() % world != 0) {
    raise_invalid(op, "the output must be contiguous and have a multiple of " +
                          std::to_string(world) + " elements, and has " +
                          std::to_string(whole.numel()) +
                          (whole.is_contiguous() ? "" : " in gaps"));
  }
  const at::Tensor flat = whole.view({-1});
  const int64_t count = whole.numel() / world;
  TensorList parts;
  for (int64_t rank = 0; rank < world; ++rank) {
    parts.push_back(flat.narrow(0, rank * count, count));
  }
  return parts;
}

uint64_t size_bytes(const TensorList& list) {
  uint64_t total = 0;
  for (const at::Tensor& tensor : list) total += tensor.nbytes();
  return total;
}

// The input for an operation that writes `output`: a copy, if the two overlap.
const std::byte* read_apart(PackedTensors& packed, const TensorList& input, const std::byte* output,
                            uint64_t output_bytes) {
  const std::byte* own = packed.read(input);
  return overlap(own, size_bytes(input), output, output_bytes) ? packed.read_copy(input) : own;
}

void all_gather(CallBuilder& builder, const TensorList& outputs, const at::Tensor& input,
                int rank) {
  if (all_alike(builder.op(), outputs, input)) {
    CollectiveCall call = builder.call(Collective::kAllGather, elements_of(input));
    call.data = builder.packed().write(outputs);
    call.input = read_apart(builder.packed(), {input}, call.data, size_bytes(outputs));
    builder.run(std::move(call));
    return;
  }
  const int64_t own_elements = outputs[static_cast<std::size_t>(rank)].numel();
  if (own_elements != input.numel()) {
    raise_invalid(builder.op(), "the output for this rank has " + std::to_string(own_elements) +
                                    " elements, and its input " + std::to_string(input.numel()) +
                                    "; make them equal");
  }
  // The parts have different sizes, so every rank broadcasts its own.
  builder.collect();
  for (std::size_t root = 0; root < outputs.size(); ++root) {
    const bool mine = root == static_cast<std::size_t>(rank);
    CollectiveCall call = builder.call(Collective::kBroadcast, elements_of(outputs[root]));
    call.op = builder.op();
    call.shape.root = static_cast<int>(root);
    call.data = builder.packed().write(outputs[root]);
    if (mine) builder.packed().pack_into(call.data, input);
    builder.run(std::move(call));
  }
}

}  // namespace

TorchBackend::WorkPtr TorchBackend::allgather(Lists& outputs, TensorList& inputs,
                                              const c10d::AllgatherOptions& opts) {
  CallBuilder builder(*this, {OpType::ALLGATHER, "fastgpu:all_gather"}, inputs, opts);
  const at::Tensor& input = single(builder.op(), inputs);
  const TensorList& list = single_list(builder.op(), outputs, getSize(), "output tensors");
  all_gather(builder, list, input, getRank());
  return builder.finish(list);
}

TorchBackend::WorkPtr TorchBackend::allgather_coalesced(Lists& outputs, TensorList& inputs,
                                                        const c10d::AllgatherOptions& opts) {
  CallBuilder builder(*this, {OpType::ALLGATHER_COALESCED, "fastgpu:all_gather_coalesced"}, inputs,
                      opts);
  check_list_size(builder.op(), "the list of output lists", outputs.size(),
                  static_cast<std::size_t>(getSize()));
  builder.collect();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    TensorList list;
    for (const TensorList& of_rank : outputs) {
      check_list_size(builder.op(), "a list of outputs", of_rank.size(), inputs.size(), "input");
      list.push_back(of_rank[i]);
    }
    all_gather(builder, list, inputs[i], getRank());
  }
  return builder.finish_lists(outputs);
}

TorchBackend::WorkPtr TorchBackend::gather(Lists& outputs, TensorList& inputs,
                                           const c10d::GatherOptions& opts) {
  CallBuilder builder(*this, {OpType::GATHER, "fastgpu:gather"}, inputs, opts);
  const at::Tensor& input = single(builder.op(), inputs);
  CollectiveCall call = builder.call(Collective::kGather, elements_of(input));
  call.shape.root = root_of(builder.op(), opts.rootRank, getSize());
  TensorList list;
  if (call.shape.root == getRank()) {
    list = single_list(builder.op(), outputs, getSize(), "output tensors");
    check_all_alike(builder.op(), list, input);
    call.data = builder.packed().write(list);
    call.input = read_apart(builder.packed(), {input}, call.data, size_bytes(list));
  } else {
    if (!outputs.empty()) {
      raise_invalid(builder.op(), "only the root has outputs; pass none on other ranks");
    }
    call.input = builder.packed().read(input);
  }
  builder.run(std::move(call));
  return builder.finish(std::move(list));
}

TorchBackend::WorkPtr TorchBackend::gather_single(at::Tensor& output, at::Tensor& input,
                                                  const c10d::GatherOptions& opts) {
  Lists lists;
  if (opts.rootRank == getRank()) lists.push_back(parts_of("gather", output, getSize()));
  TensorList inputs{input};
  return gather(lists, inputs, opts);
}

TorchBackend::WorkPtr TorchBackend::scatter(TensorList& outputs, Lists& inputs,
                                            const c10d::ScatterOptions& opts) {
  CallBuilder builder(*this, {OpType::SCATTER, "fastgpu:scatter"},
                      inputs.empty() ? TensorList() : inputs.front(), opts);
  const at::Tensor& output = single(builder.op(), outputs);
  CollectiveCall call = builder.call(Collective::kScatter, elements_of(output));
  call.shape.root = root_of(builder.op(), opts.rootRank, getSize());
  call.data = builder.packed().write(output);
  if (call.shape.root == getRank()) {
    const TensorList& list = single_list(builder.op(), inputs, getSize(), "input tensors");
    check_all_alike(builder.op(), list, output);
    call.input = read_apart(builder.packed(), list, call.data, size_bytes(outputs));
  } else if (!inputs.empty()) {
    raise_invalid(builder.op(), "only the root has inputs; pass none on other ranks");
  }
  builder.run(std::move(call));
  return builder.finish(outputs);
}

TorchBackend::WorkPtr TorchBackend::reduce_scatter(TensorList& outputs, Lists& inputs,
                                                   const c10d::ReduceScatterOptions& opts) {
  CallBuilder builder(*this, {OpType::REDUCE_SCATTER, "fastgpu:reduce_scatter"},
                      inputs.empty() ? TensorList() : inputs.front(), opts);
  const at::Tensor& output = single(builder.op(), outputs);
  const TensorList& list = single_list(builder.op(), inputs, getSize(), "input tensors");
  if (all_alike(builder.op(), list, output)) {
    CollectiveCall call = builder.reduction(Collective::kReduceScatter,
                                            reducible_of(builder.op(), output), opts.reduceOp);
    call.data = builder.packed().write(output);
    call.input = read_apart(builder.packed(), list, call.data, size_bytes(outputs));
    builder.run(std::move(call));
    return builder.finish(outputs);
  }
  const int64_t own_elements = list[static_cast<std::size_t>(getRank())].numel();
  if (output.numel() != own_elements) {
    raise_invalid(builder.op(), "the output has " + std::to_string(output.numel()) +
                                    " elements, and this rank's part of the input " +
                                    std::to_string(own_elements) + "; make them equal");
  }
  // The parts have different sizes, so each is reduced to its rank.
  builder.collect();
  for (std::size_t root = 0; root < list.size(); ++root) {
    CollectiveCall call = builder.reduction(Collective::kReduce,
                                            reducible_of(builder.op(), list[root]), opts.reduceOp);
    call.op = builder.op();
    call.shape.root = static_cast<int>(root);
    if (call.shape.root == getRank()) call.data = builder.packed().write(output);
    call.input = read_apart(builder.packed(), {list[root]}, call.data,
                            call.data == nullptr ? 0 : size_bytes(outputs));
    builder.run(std::move(call));
  }
  return builder.finish(outputs);
}

TorchBackend::WorkPtr TorchBackend::alltoall(TensorList& outputs, TensorList& inputs,
                                             const c10d::AllToAllOptions& opts) {
  CallBuilder builder(*this, {OpType::ALLTOALL, "fastgpu:all_to_all"}, inputs, opts);
  const auto world = static_cast<std::size_t>(getSize());
  check_list_size(builder.op(), "the list of outputs", outputs.size(), world);
  check_list_size(builder.op(), "the list of inputs", inputs.size(), world);
  const Elements first = elements_of(inputs.front());
  CollectiveCall call = builder.call(Collective::kAllToAll, {first.dtype, 0});
  for (std::size_t rank = 0; rank < world; ++rank) {
    check_same_dtype(builder.op(), inputs[rank], inputs.front());
    check_same_dtype(builder.op(), outputs[rank], inputs.front());
    call.send_counts.push_back(elements_of(inputs[rank]).count);
    call.recv_counts.push_back(elements_of(outputs[rank]).count);
  }
  call.data = builder.packed().write(outputs);
  call.input = read_apart(builder.packed(), inputs, call.data, size_bytes(outputs));
  builder.run(std::move(call));
  return builder.finish(outputs);
}

}  // namespace fastgpu
