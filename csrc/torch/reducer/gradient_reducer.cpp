#include "torch/reducer/gradient_reducer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <mutex>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <utility>

#include "base/clock.h"
#include "codec/random_key.h"
#include "torch/backend/call_builder.h"
#include "torch/backend/errors.h"

namespace fastgpu {
namespace {

// Members of the Reducer that only its subclasses may name. A pointer to member needs no object of
// the subclass.
struct ReducerFields : c10d::Reducer {
  static const std::vector<Bucket>& buckets(const c10d::Reducer& reducer) {
    return reducer.*&ReducerFields::buckets_;
  }
  static int divisor(const c10d::Reducer& reducer) { return reducer.*&ReducerFields::div_factor_; }

  static int64_t ns_since_forward(const c10d::Reducer& reducer) {
    return c10d::current_time_in_nanos() - reducer.*&ReducerFields::backward_compute_start_time_;
  }

  static void set_rebuilt(c10d::Reducer& reducer) {
    bool c10d::Reducer::* const rebuilt = &ReducerFields::has_rebuilt_bucket_;
    reducer.*rebuilt = true;
  }

  // A bucket is found by its memory, and one of a sparse gradient by the tensor. A rank that has
  // joined (torch's join()) passes zeros of its own instead, with the right index.
  static std::size_t index_of(const c10d::Reducer& reducer, const c10d::GradBucket& bucket) {
    const at::Tensor& buffer = bucket.getBuffer();
    const auto& all = buckets(reducer);
    const auto same = std::ranges::find_if(all, [&](const Bucket& each) {
      if (!each.gradients.defined()) return false;
      if (each.gradients.is_sparse() || buffer.is_sparse()) return each.gradients.is_same(buffer);
      return each.gradients.is_alias_of(buffer);
    });
    return same == all.end() ? bucket.getIndex() : static_cast<std::size_t>(same - all.begin());
  }
};

}  // namespace

struct GradientReducer::Pass {
  explicit Pass(int64_t lead_ns) : lead_ns(lead_ns) {}

  const int64_t lead_ns;  // from the end of the forward pass
  const TimeNs began = now_ns();
  mutable std::mutex mutex;          // guards buckets
  std::vector<BucketStats> buckets;  // by index
};

// The hook object, which the Reducer owns. So the reference is valid whenever it is called.
class GradientReducer::Hook final
    : public c10d::CppCommHookInterface<std::shared_ptr<GradientReducer>> {
 public:
  Hook(std::shared_ptr<GradientReducer> owner, const c10d::Reducer& reducer)
      : CppCommHookInterface(std::move(owner)), reducer_(reducer) {}

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    return state_->reduce(reducer_, bucket);
  }

 private:
  const c10d::Reducer& reducer_;
};

GradientReducer::GradientReducer(BackendPtr backend, std::vector<Encoding> encodings,
                                 Weighting weighting)
    : backend_(std::move(backend)),
      encodings_(std::move(encodings)),
      weighting_(weighting),
      residuals_(encodings_.size()) {}

void GradientReducer::set_backend(BackendPtr backend) {
  backend_ = std::move(backend);
  announced_.clear();
  factor_.reset();
  least_.reset();
  least_work_.reset();
}

void GradientReducer::attach(c10d::Reducer& reducer) {
  reducer.register_comm_hook(std::make_unique<Hook>(shared_from_this(), reducer));
}

std::vector<GradientReducer::Indices> GradientReducer::buckets_of(const c10d::Reducer& reducer) {
  std::vector<Indices> buckets;
  for (const auto& bucket : ReducerFields::buckets(reducer)) {
    buckets.push_back(bucket.variable_indices);
  }
  return buckets;
}

GradientReducer::Indices GradientReducer::parameters_of(const c10d::Reducer& reducer,
                                                        const c10d::GradBucket& bucket) {
  const std::size_t index = ReducerFields::index_of(reducer, bucket);
  return ReducerFields::buckets(reducer).at(index).variable_indices;
}

void GradientReducer::set_buckets(c10d::Reducer& reducer, const std::vector<Indices>& buckets) {
  reducer.initialize_buckets(buckets);
  ReducerFields::set_rebuilt(reducer);
}

bool GradientReducer::split_buckets(c10d::Reducer& reducer) const {
  std::vector<Indices> split;
  bool changed = false;
  for (const Indices& bucket : buckets_of(reducer)) {
    const std::size_t first = split.size();
    for (const std::size_t parameter : bucket) {
      const auto same = std::find_if(
          split.begin() + static_cast<int64_t>(first), split.end(),
          [&](const Indices& other) { return encodings_[other.front()] == encodings_[parameter]; });
      same != split.end() ? same->push_back(parameter) : split.push_back({parameter});
    }
    changed = changed || split.size() > first + 1;
  }
  if (changed) reducer.initialize_buckets(std::move(split));
  return changed;
}

void GradientReducer::announce_weight(double weight) {
  const at::NoGradGuard no_grad;
  TensorList sum{at::full({1}, weight, at::kDouble)};
  announced_.push_back({weight, sum.front(), backend_->allreduce(sum, c10d::AllreduceOptions())});
}

at::Tensor GradientReducer::take_least() {
  if (least_work_ == nullptr) return {};
  std::exchange(least_work_, nullptr)->wait(kNoTimeout);
  return std::exchange(least_, {});
}

// The factor of this rank's gradients, applied before the sum. Waits for the sum of the weights,
// which was started before the forward pass.
double GradientReducer::factor(int divisor) {
  if (weighting_ == Weighting::kNone) return 1.0 / (divisor > 0 ? divisor : backend_->getSize());
  if (!announced_.empty()) {
    double own = 0;
    double total = 0;
    for (const Announced& each : std::exchange(announced_, {})) {
      each.work->wait(kNoTimeout);
      own += each.weight;
      total += each.sum.item<double>();
    }
    factor_ = own > 0 ? (weighting_ == Weighting::kMean ? own : 1.0) / total : 0.0;
  }
  if (!factor_.has_value()) {
    raise_invalid("DistributedDataParallel",
                  "this backward pass has no weight: with weighted=, call set_weight(n) before the "
                  "forward pass whose gradients are reduced");
  }
  return *factor_;
}

// Adds residuals that no encoding takes any more. The reduction multiplies by `factor` afterwards.
void GradientReducer::deliver_residuals(const at::Tensor& gradients, const Indices& parameters,
                                        const std::vector<std::size_t>& lengths, double factor) {
  if (factor == 0) return;  // in a later pass
  int64_t offset = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto count = static_cast<int64_t>(lengths[i]);
    const at::Tensor residual = residuals_.take(parameters[i], keeps_copies_);
    if (residual.defined()) {  // one that was set is on the CPU
      gradients.narrow(0, offset, count).add_(residual.to(gradients.device()), 1 / factor);
    }
    offset += count;
  }
}

void GradientReducer::begin_pass(const c10d::Reducer& reducer) {
  pass_ = std::make_shared<Pass>(ReducerFields::ns_since_forward(reducer));
  ++passes_;
  residuals_.forget();
  if (!least_.defined() || least_work_ != nullptr) return;
  TensorList values{least_};
  c10d::AllreduceOptions options;
  options.reduceOp = c10d::ReduceOp::MIN;
  least_work_ = backend_->allreduce(values, options);
}

c10::intrusive_ptr<c10::ivalue::Future> GradientReducer::reduce(const c10d::Reducer& reducer,
                                                                c10d::GradBucket& bucket) {
  const at::NoGradGuard no_grad;
  const auto& buckets = ReducerFields::buckets(reducer);
  const std::size_t index = ReducerFields::index_of(reducer, bucket);
  if (index == 0 || pass_ == nullptr) begin_pass(reducer);
  const double factor = this->factor(ReducerFields::divisor(reducer));
  if (index + 1 == buckets.size()) factor_.reset();
  const at::Tensor& gradients = bucket.getBuffer();
  if (factor == 0) at::Tensor(gradients).zero_();  // the mean over no samples is NaN
  if (gradients.is_sparse()) return reduce_sparse(gradients, factor);

  const Indices& parameters = buckets[index].variable_indices;
  static const Encoding kNone;
  const Encoding& encoding = backend_->getSize() > 1 ? encodings_[parameters.front()] : kNone;
  CallBuilder builder(*backend_, {c10d::OpType::ALLREDUCE, "fastgpu:all_reduce"}, {gradients});
  CollectiveCall call = builder.call(Collective::kAllReduce, reducible_of(builder.op(), gradients));
  call.shape.reduce_op = ReduceOp::kPremulSum;
  call.premul_factor = factor;
  call.shape.codec = encoding.codec;
  call.data = builder.packed().update(gradients);
  if (encoding.seed.has_value()) call.random_key = random_key(*encoding.seed, parameters.front());
  BucketStats stats;
  if (encoding.residual_bits > 0) {
    const Residuals::StorePtr residual = residuals_.join(
        parameters, buckets[index].lengths, encoding.residual_bits == 8, gradients.device());
    call.residual = residual->view();
    builder.packed().update(residual->values);
    if (residual->scales.defined()) builder.packed().update(residual->scales);
    stats.residual_bytes = residual->size_bytes();
    if (keeps_copies_) residuals_.remember(parameters);
  } else {
    deliver_residuals(gradients, parameters, buckets[index].lengths, factor);
  }
  builder.run(std::move(call));
  const auto work = builder.finish({gradients});
  stats.parameters = parameters;
  stats.codec = name_of(encoding.codec);
  stats.size_bytes = gradients.nbytes();
  stats.encoded_bytes = encoding.codec == Codec::kNone
                            ? stats.size_bytes
                            : encoded_bytes(encoding.codec, stats.size_bytes / sizeof(float));
  record(index, std::move(stats), static_cast<TorchWork&>(*work));
  return work->getFuture();
}

uint64_t GradientReducer::random_key(uint64_t seed, std::size_t first_parameter) const {
  const auto rank = static_cast<uint64_t>(backend_->getRank());
  return derived_key(derived_key(derived_key(seed, rank), step_), first_parameter);
}

void GradientReducer::record(std::size_t index, BucketStats stats, TorchWork& work) {
  stats.launched_ns = now_ns() - pass_->began;
  {
    const std::lock_guard lock(pass_->mutex);
    if (pass_->buckets.size() <= index) pass_->buckets.resize(index + 1);
    pass_->buckets[index] = std::move(stats);
  }
  work.on_end([pass = pass_, index](const TorchWork::Outcome& outcome) {
    const std::lock_guard lock(pass->mutex);
    pass->buckets[index].done_ns = now_ns() - pass->began;
    pass->buckets[index].codec_ns = outcome.codec_ns;
  });
}

c10::intrusive_ptr<c10::ivalue::Future> GradientReducer::reduce_sparse(const at::Tensor& gradient,
                                                                       double factor) {
  TensorList gradients{gradient};
  gradients.front().mul_(factor);
  return backend_->allreduce(gradients, c10d::AllreduceOptions())->getFuture();
}

void GradientReducer::set_residual(std::size_t parameter, const at::Tensor& residual) {
  residuals_.set(parameter, residual);
}

void GradientReducer::abandon_step() {
  announced_.clear();
  residuals_.forget();
}

int64_t GradientReducer::lead_ns() const { return pass_ == nullptr ? 0 : pass_->lead_ns; }

std::vector<GradientReducer::BucketStats> GradientReducer::stats() const {
  if (pass_ == nullptr) return {};
  const std::lock_guard lock(pass_->mutex);
  std::vector<BucketStats> done = pass_->buckets;
  std::erase_if(done, [](const BucketStats& bucket) { return bucket.parameters.empty(); });
  return done;
}

}  // namespace fastgpu
