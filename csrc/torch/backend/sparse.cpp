// All-reduce of sparse COO tensors. Every rank gathers the indices and values of all ranks, padded
// to the longest, and adds them. The padding follows from a first exchange, so the call returns
// when the result is complete.
#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <sstream>

#include "torch/backend/backend.h"
#include "torch/backend/call_builder.h"
#include "torch/backend/errors.h"

namespace fastgpu {
namespace {

constexpr int64_t kMaxDims = 13;
constexpr int64_t kShapeLength = 4 + kMaxDims;

// The number of stored elements, then what must be equal on all ranks: the numbers of sparse and
// dense dimensions, the dtype and the sizes.
at::Tensor shape_of(const at::Tensor& tensor) {
  if (tensor.dim() > kMaxDims) {
    raise_invalid("all_reduce", "a sparse tensor has " + std::to_string(tensor.dim()) +
                                    " dimensions, and may have up to " + std::to_string(kMaxDims) +
                                    "; reshape it, or pass tensor.to_dense()");
  }
  at::Tensor shape = at::zeros({kShapeLength}, at::kLong);
  auto* numbers = shape.mutable_data_ptr<int64_t>();
  numbers[0] = tensor._nnz();
  numbers[1] = tensor.sparse_dim();
  numbers[2] = tensor.dense_dim();
  numbers[3] = static_cast<int64_t>(tensor.scalar_type());
  std::ranges::copy(tensor.sizes(), numbers + 4);
  return shape;
}

std::string describe(const int64_t* shape) {
  std::ostringstream text;
  text << "sparse " << c10::toString(static_cast<at::ScalarType>(shape[3])) << " of size (";
  for (int64_t dim = 0; dim < shape[1] + shape[2]; ++dim)
    text << (dim ? ", " : "") << shape[4 + dim];
  text << ")";
  return text.str();
}

void check_agreement(const at::Tensor& shapes, int rank) {
  const auto* mine = shapes.const_data_ptr<int64_t>() + rank * kShapeLength;
  for (int64_t peer = 0; peer < shapes.size(0); ++peer) {
    const auto* other = shapes.const_data_ptr<int64_t>() + peer * kShapeLength;
    if (std::equal(mine + 1, mine + kShapeLength, other + 1)) continue;
    Failure failure;
    failure.kind = ErrorKind::kMismatch;
    failure.rank = rank;
    failure.peer = static_cast<int>(peer);
    failure.op = "all_reduce";
    failure.message = "all_reduce: rank " + std::to_string(rank) + " passed " + describe(mine) +
                      ", and rank " + std::to_string(peer) + " passed " + describe(other) +
                      "; pass equal dtypes and sizes on all ranks";
    raise_in_python(failure);
  }
}

void check_sparse(const char* op, const at::Tensor& tensor, const c10d::ReduceOp& reduce_op) {
  if (reduce_op.op_ != c10d::ReduceOp::AVG && reduce_op.op_ != c10d::ReduceOp::SUM) {
    raise_invalid(op,
                  "sparse tensors can be reduced with SUM and AVG only; pass tensor.to_dense() to "
                  "use another op");
  }
  if (!tensor.device().is_cpu()) {
    raise_invalid(op, "a sparse tensor is on " + tensor.device().str() +
                          "; move it with .cpu(), or pass tensor.to_dense()");
  }
}

}  // namespace

TorchBackend::WorkPtr TorchBackend::allreduce_sparse(TensorList& tensors,
                                                     const c10d::AllreduceOptions& opts) {
  const at::NoGradGuard no_grad;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  CallBuilder builder(*this,
                      {c10d::OpType::_ALLREDUCE_SPARSE, "fastgpu:sparse_all_reduce", "all_reduce"},
                      tensors, opts);
  const at::Tensor& tensor = single(builder.op(), tensors);
  check_sparse(builder.op(), tensor, opts.reduceOp);
  if (estimate_.of_this_thread()) {
    raise_invalid(builder.op(),
                  "the time of a sparse all-reduce cannot be estimated, because it depends on the "
                  "tensors of the other ranks; estimate the dense one");
  }
  const at::Tensor input = tensor.coalesce();
  c10d::AllgatherOptions gather_opts;
  gather_opts.timeout = opts.timeout;
  gather_opts.asyncOp = false;
  const auto all_gather = [&](at::Tensor part) {
    std::vector<int64_t> sizes = part.sizes().vec();
    sizes.insert(sizes.begin(), getSize());
    at::Tensor whole = at::empty(sizes, part.options());
    part = part.contiguous();
    CallBuilder gather(*this, {c10d::OpType::_ALLGATHER_BASE, "fastgpu:_all_gather_base"}, {part},
                       gather_opts);
    CollectiveCall call = gather.call(Collective::kAllGather, elements_of(part));
    call.op = "all_reduce";
    call.data = gather.packed().write(whole);
    call.input = gather.packed().read(part);
    gather.run(std::move(call));
    gather.finish({whole})->wait();
    return whole;
  };

  const at::Tensor shapes = all_gather(shape_of(input));
  check_agreement(shapes, getRank());
  const at::Tensor counts = shapes.select(1, 0);
  const int64_t longest = counts.max().item<int64_t>();
  at::Tensor indices = at::zeros({longest, input.sparse_dim()}, at::kLong);
  std::vector<int64_t> value_sizes = input.values().sizes().vec();
  value_sizes[0] = longest;
  at::Tensor values = at::zeros(value_sizes, input.options().layout(at::kStrided));
  indices.narrow(0, 0, input._nnz()).copy_(input.indices().t());
  values.narrow(0, 0, input._nnz()).copy_(input.values());
  const at::Tensor all_indices = all_gather(indices);
  const at::Tensor all_values = all_gather(values);

  TensorList index_parts;
  TensorList value_parts;
  for (int64_t rank = 0; rank < getSize(); ++rank) {
    const auto count = counts[rank].item<int64_t>();
    index_parts.push_back(all_indices[rank].narrow(0, 0, count));
    value_parts.push_back(all_values[rank].narrow(0, 0, count));
  }
  at::Tensor sum = at::sparse_coo_tensor(at::cat(index_parts).t().contiguous(),
                                         at::cat(value_parts), tensor.sizes(), tensor.options())
                       .coalesce();
  if (opts.reduceOp.op_ == c10d::ReduceOp::AVG) sum.values().div_(getSize());
  at::Tensor(tensor).copy_(sum);
  return builder.finish({tensor});
}

}  // namespace fastgpu
