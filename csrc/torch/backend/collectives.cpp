// The collectives on an input tensor and an output tensor, or on one tensor that is both.
#include <numeric>

#include "comm/operation_builder.h"
#include "torch/backend/backend.h"
#include "torch/backend/call_builder.h"
#include "torch/backend/devices.h"
#include "torch/backend/errors.h"

namespace fastgpu {
namespace {

using c10d::OpType;

// Coalesced all-reduces of smaller tensors are packed into one. For a larger tensor the copies
// would cost more than a separate all-reduce.
constexpr uint64_t kPackedBytes = 256 * 1024;

// `whole` must have `world` times the elements of `part`.
void check_parts(const char* op, const at::Tensor& whole, const at::Tensor& part, int world) {
  check_same_dtype(op, whole, part);
  if (whole.numel() == part.numel() * world) return;
  raise_invalid(op, "the larger tensor has " + std::to_string(whole.numel()) +
                        " elements, and must have " + std::to_string(part.numel() * world) +
                        ": the " + std::to_string(part.numel()) +
                        " of the smaller times the world size " + std::to_string(world));
}

void all_gather_into(CallBuilder& builder, const at::Tensor& output, const at::Tensor& input,
                     int rank, int world) {
  check_parts(builder.op(), output, input, world);
  CollectiveCall call = builder.call(Collective::kAllGather, elements_of(input));
  const uint64_t part_bytes = call.shape.count * size_of(call.shape.dtype);
  call.data = builder.packed().write(output);
  call.input = builder.packed().read(input);
  const std::byte* mine = call.data + static_cast<uint64_t>(rank) * part_bytes;
  if (call.input != mine &&
      overlap(call.input, part_bytes, call.data, part_bytes * static_cast<uint64_t>(world))) {
    call.input = builder.packed().read_copy({&input, 1});
  }
  builder.run(std::move(call));
}

void reduce_scatter_into(CallBuilder& builder, const at::Tensor& output, const at::Tensor& input,
                         const c10d::ReduceOp& reduce_op, int world) {
  check_parts(builder.op(), input, output, world);
  CollectiveCall call =
      builder.reduction(Collective::kReduceScatter, reducible_of(builder.op(), output), reduce_op);
  const uint64_t part_bytes = call.shape.count * size_of(call.shape.dtype);
  call.data = builder.packed().write(output);
  call.input = builder.packed().read(input);
  if (overlap(call.input, part_bytes * static_cast<uint64_t>(world), call.data, part_bytes)) {
    call.input = builder.packed().read_copy({&input, 1});
  }
  builder.run(std::move(call));
}

// The elements to or from each rank, of a tensor that is split along its first dimension.
std::vector<uint64_t> split_counts(const char* op, const at::Tensor& tensor,
                                   const std::vector<int64_t>& splits, int world) {
  const int64_t rows = tensor.dim() == 0 ? 1 : tensor.size(0);
  const auto parts = static_cast<std::size_t>(world);
  if (splits.empty()) {
    if (rows % world != 0) {
      raise_invalid(
          op, "Tensor's dim 0 does not divide equally across group size: " + std::to_string(rows) +
                  " rows over " + std::to_string(world) + " ranks; pass the split sizes");
    }
    return std::vector<uint64_t>(parts, static_cast<uint64_t>(tensor.numel() / world));
  }
  if (splits.size() != parts) {
    raise_invalid(
        op, "Number of tensor splits not equal to group size: " + std::to_string(splits.size()) +
                " splits, and " + std::to_string(world) + " ranks; pass one split size per rank");
  }
  for (const int64_t split : splits) {
    if (split < 0) {
      raise_invalid(op, "split " + std::to_string(split) + " is negative; use 0 or more");
    }
  }
  const int64_t sum = std::accumulate(splits.begin(), splits.end(), int64_t{0});
  if (sum != rows) {
    raise_invalid(op, "Split sizes doesn't match total dim 0 size: they sum to " +
                          std::to_string(sum) + ", and the tensor has " + std::to_string(rows) +
                          " rows; make the sum equal to the rows");
  }
  const int64_t row_elements = rows == 0 ? 0 : tensor.numel() / rows;
  std::vector<uint64_t> counts;
  for (const int64_t split : splits) counts.push_back(static_cast<uint64_t>(split * row_elements));
  return counts;
}

}  // namespace

TorchBackend::WorkPtr TorchBackend::broadcast(TensorList& tensors,
                                              const c10d::BroadcastOptions& opts) {
  CallBuilder builder(*this, {OpType::BROADCAST, "fastgpu:broadcast"}, tensors, opts);
  const at::Tensor& tensor = single(builder.op(), tensors);
  check_writable(builder.op(), tensor);  // also on the root: all ranks must raise, or none
  CollectiveCall call = builder.call(Collective::kBroadcast, elements_of(tensor));
  call.shape.root = root_of(builder.op(), opts.rootRank, getSize());
  call.data = call.shape.root == getRank() ? const_cast<std::byte*>(builder.packed().read(tensor))
                                           : builder.packed().write(tensor);
  builder.run(std::move(call));
  return builder.finish(tensors);
}

// A group's codec takes float32. It also shortens a sum of float16 or bfloat16, in a wider copy.
void TorchBackend::set_data(CollectiveCall& call, PackedTensors& packed,
                            const TensorList& tensors) const {
  const bool is_shorter = codec_ == Codec::kInt8 || codec_ == Codec::kInt4;
  const bool is_half = call.shape.dtype == DType::kFloat16 || call.shape.dtype == DType::kBFloat16;
  if (is_shorter && is_half && tensors.size() == 1 && !is_on_device(tensors.front())) {
    CallShape wide = call.shape;
    wide.widened_from = std::exchange(wide.dtype, DType::kFloat32);
    if (codec_of(wide, codec_) != Codec::kNone) {
      call.data = packed.update_widened(tensors.front(), call.shape.dtype);
      call.shape = wide;
      return;
    }
  }
  call.data = packed.update(tensors);
}

TorchBackend::WorkPtr TorchBackend::allreduce(TensorList& tensors,
                                              const c10d::AllreduceOptions& opts) {
  if (tensors.size() == 1 && tensors[0].is_sparse()) return allreduce_sparse(tensors, opts);
  CallBuilder builder(*this, {OpType::ALLREDUCE, "fastgpu:all_reduce"}, tensors, opts);
  const at::Tensor& tensor = single(builder.op(), tensors);
  CollectiveCall call =
      builder.reduction(Collective::kAllReduce, reducible_of(builder.op(), tensor), opts.reduceOp);
  set_data(call, builder.packed(), tensors);
  builder.run(std::move(call));
  return builder.finish(tensors);
}

TorchBackend::WorkPtr TorchBackend::allreduce_coalesced(
    TensorList& tensors, const c10d::AllreduceCoalescedOptions& opts) {
  CallBuilder builder(*this, {OpType::ALLREDUCE_COALESCED, "fastgpu:all_reduce_coalesced"}, tensors,
                      opts);
  builder.collect();
  // Only dtypes and sizes decide which tensors are packed together, so every rank packs the same.
  std::vector<std::pair<DType, TensorList>> groups;
  std::vector<TensorList*> open(kDTypeCount, nullptr);  // by dtype: its group of small tensors
  groups.reserve(tensors.size());                       // so that `open` stays valid
  for (const at::Tensor& tensor : tensors) {
    check_dense(builder.op(), tensor);
    const Elements elements = reducible_of(builder.op(), tensor);
    if (elements.count * size_of(elements.dtype) >= kPackedBytes) {
      groups.emplace_back(elements.dtype, TensorList{tensor});
      continue;
    }
    TensorList*& group = open[static_cast<std::size_t>(elements.dtype)];
    if (group == nullptr) group = &groups.emplace_back(elements.dtype, TensorList()).second;
    group->push_back(tensor);
  }
  for (const auto& [dtype, group] : groups) {
    uint64_t count = 0;
    for (const at::Tensor& tensor : group) count += static_cast<uint64_t>(tensor.numel());
    CollectiveCall call = builder.reduction(Collective::kAllReduce, {dtype, count}, opts.reduceOp);
    set_data(call, builder.packed(), group);
    builder.run(std::move(call));
  }
  return builder.finish(tensors);
}

TorchBackend::WorkPtr TorchBackend::reduce(TensorList& tensors, const c10d::ReduceOptions& opts) {
  CallBuilder builder(*this, {OpType::REDUCE, "fastgpu:reduce"}, tensors, opts);
  const at::Tensor& tensor = single(builder.op(), tensors);
  check_writable(builder.op(), tensor);  // also elsewhere: all ranks must raise, or none
  CollectiveCall call =
      builder.reduction(Collective::kReduce, reducible_of(builder.op(), tensor), opts.reduceOp);
  call.shape.root = root_of(builder.op(), opts.rootRank, getSize());
  if (call.shape.root == getRank()) {
    call.data = builder.packed().update(tensor);
    call.input = call.data;
  } else {
    call.input = builder.packed().read(tensor);
  }
  builder.run(std::move(call));
  return builder.finish(tensors);
}

TorchBackend::WorkPtr TorchBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                    const c10d::AllgatherOptions& opts) {
  CallBuilder builder(*this, {OpType::_ALLGATHER_BASE, "fastgpu:all_gather_into_tensor"}, {input},
                      opts);
  all_gather_into(builder, output, input, getRank(), getSize());
  return builder.finish({output});
}

TorchBackend::WorkPtr TorchBackend::allgather_into_tensor_coalesced(
    TensorList& outputs, TensorList& inputs, const c10d::AllgatherOptions& opts) {
  CallBuilder builder(*this, {OpType::COALESCED, "fastgpu:all_gather_into_tensor_coalesced"},
                      inputs, opts);
  check_list_size(builder.op(), "the list of outputs", outputs.size(), inputs.size(), "input");
  builder.collect();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    all_gather_into(builder, outputs[i], inputs[i], getRank(), getSize());
  }
  return builder.finish(outputs);
}

TorchBackend::WorkPtr TorchBackend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                         const c10d::ReduceScatterOptions& opts) {
  CallBuilder builder(*this, {OpType::_REDUCE_SCATTER_BASE, "fastgpu:reduce_scatter_tensor"},
                      {input}, opts);
  reduce_scatter_into(builder, output, input, opts.reduceOp, getSize());
  return builder.finish({output});
}

TorchBackend::WorkPtr TorchBackend::reduce_scatter_tensor_coalesced(
    TensorList& outputs, TensorList& inputs, const c10d::ReduceScatterOptions& opts) {
  CallBuilder builder(*this, {OpType::COALESCED, "fastgpu:reduce_scatter_tensor_coalesced"}, inputs,
                      opts);
  check_list_size(builder.op(), "the list of outputs", outputs.size(), inputs.size(), "input");
  builder.collect();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    reduce_scatter_into(builder, outputs[i], inputs[i], opts.reduceOp, getSize());
  }
  return builder.finish(outputs);
}

TorchBackend::WorkPtr TorchBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                  std::vector<int64_t>& output_splits,
                                                  std::vector<int64_t>& input_splits,
                                                  const c10d::AllToAllOptions& opts) {
  CallBuilder builder(*this, {OpType::ALLTOALL_BASE, "fastgpu:all_to_all"}, {input}, opts);
  check_same_dtype(builder.op(), input, output);
  if (!input.is_contiguous() || !output.is_contiguous()) {
    raise_invalid(builder.op(), "Tensors must be contiguous; pass .contiguous()");
  }
  const Elements elements = elements_of(input);
  CollectiveCall call = builder.call(Collective::kAllToAll, {elements.dtype, 0});
  call.send_counts = split_counts(builder.op(), input, input_splits, getSize());
  call.recv_counts = split_counts(builder.op(), output, output_splits, getSize());
  // More than 1 for a dtype that is sent as bytes.
  const uint64_t units_per_element = input.element_size() / size_of(elements.dtype);
  for (uint64_t& count : call.send_counts) count *= units_per_element;
  for (uint64_t& count : call.recv_counts) count *= units_per_element;
  // Kernels carry out an all_to_all of even parts only. So all ranks give splits there, or none.
  const bool gives_splits = !input_splits.empty() || !output_splits.empty();
  if (is_on_device(input) && !gives_splits && call.send_counts == call.recv_counts) {
    call.shape.count = call.send_counts.front();
    call.send_counts.clear();
    call.recv_counts.clear();
  }
  call.data = builder.packed().write(output);
  call.input = builder.packed().read(input);
  if (overlap(call.input, input.nbytes(), call.data, output.nbytes())) {
    call.input = builder.packed().read_copy({&input, 1});
  }
  builder.run(std::move(call));
  return builder.finish({output});
}

}  // namespace fastgpu
