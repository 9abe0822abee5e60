#include "comm/operation_builder.h"

#include <cstring>
#include <string>
#include <utility>

#include "base/cache_lines.h"
#include "base/wait_policy.h"
#include "codec/codec.h"
#include "kernels/copy.h"
#include "kernels/reduce.h"

namespace fastgpu {
namespace {

// Below these sizes the kernel takes longer to look up the sender's pages than a second copy takes.
// If ranks share cores, the sender is also likely to wait for its turn.
constexpr uint64_t kSingleCopyFromBytes = 32 * 1024;
constexpr uint64_t kSingleCopyFromBytesOversubscribed = 64 * 1024;

// On processors where a line that another core has read stays Owned, the sender's next write to its
// buffer would cost more than the copy that a single-copy read saves.
bool uses_single_copy(SingleCopy wanted) {
  return wanted == SingleCopy::kAlways || (wanted == SingleCopy::kAuto && !lines_stay_owned());
}

// Whether sums of few numbers overflow: float16 and the 8-bit floats.
bool is_narrow(DType dtype) {
  return dtype == DType::kFloat16 || (dtype >= DType::kFloat8E4M3 && dtype < DType::kInt8);
}

[[noreturn]] void refuse(const CollectiveCall& call, const std::string& why) {
  raise(ErrorKind::kInvalidArgument, std::string(name_of(call.shape.collective)) + ": " + why);
}

void check_counts(const CollectiveCall& call, int rank, int world) {
  const auto ranks = static_cast<std::size_t>(world);
  if (call.send_counts.size() != call.recv_counts.size() ||
      (!call.send_counts.empty() && call.send_counts.size() != ranks)) {
    refuse(call, "send and receive counts must be given for each of the " + std::to_string(ranks) +
                     " ranks, not for " + std::to_string(call.send_counts.size()) + " and " +
                     std::to_string(call.recv_counts.size()));
  }
  if (call.send_counts.empty()) return;
  const auto me = static_cast<std::size_t>(rank);
  if (call.send_counts[me] != call.recv_counts[me]) {
    refuse(call, "this rank sends itself " + std::to_string(call.send_counts[me]) +
                     " elements, and has room for " + std::to_string(call.recv_counts[me]) +
                     " of its own; both must be the same");
  }
}

void check_for_gpu(const CollectiveCall& call) {
  const CallShape& shape = call.shape;
  if (shape.codec != Codec::kNone && !has_device_codec(shape.codec)) {
    refuse(call, "codec " + std::string(name_of(shape.codec)) +
                     " is for tensors of the CPU only; use fp16, bf16, int8 or int4");
  }
  if (call.residual.codes != nullptr) {
    refuse(call, "residuals of 8 bits are for tensors of the CPU only; use 32 bits");
  }
}

bool rounds_stochastically(Codec codec) {
  const CodecKernels* kernels = find_codec(codec);
  return kernels != nullptr && kernels->encode_stochastic != nullptr;
}

void check_codec(const CollectiveCall& call) {
  const CallShape& shape = call.shape;
  if (shape.codec != Codec::kNone && !has_codec(shape)) {
    refuse(call, "codec " + std::string(name_of(shape.codec)) +
                     " is for SUM, AVG and PREMUL_SUM of float32, not for " +
                     std::string(name_of(shape.reduce_op)) + " of " +
                     std::string(name_of(shape.dtype)) + "; leave the codec out");
  }
  if (call.random_key.has_value() && !rounds_stochastically(shape.codec)) {
    refuse(call, "only codecs int8 and int4 round stochastically, not " +
                     std::string(name_of(shape.codec)) + "; leave the key out");
  }
}

}  // namespace

bool has_codec(const CallShape& shape) {
  return shape.collective == Collective::kAllReduce && shape.dtype == DType::kFloat32 &&
         (shape.reduce_op == ReduceOp::kSum || shape.reduce_op == ReduceOp::kAvg ||
          shape.reduce_op == ReduceOp::kPremulSum);
}

Codec codec_of(const CallShape& shape, Codec of_group) {
  const bool follows_group = shape.codec == Codec::kNone && has_codec(shape) &&
                             shape.reduce_op != ReduceOp::kPremulSum &&
                             shape.count * size_of(shape.dtype) >= kLeastEncodedBytes;
  return follows_group ? of_group : shape.codec;
}

Factors factors_of(const CollectiveCall& call, int world) {
  const CallShape& shape = call.shape;
  if (!reduces(shape.collective)) return {};
  if (shape.reduce_op == ReduceOp::kPremulSum) return {.before = call.premul_factor};
  if (shape.reduce_op != ReduceOp::kAvg) return {};
  return is_narrow(shape.dtype) ? Factors{.before = 1.0 / world} : Factors{.after = 1.0 / world};
}

OperationBuilder::OperationBuilder(const Config& config, Allocator& shared)
    : config_(config),
      uses_single_copy_(uses_single_copy(config.single_copy)),
      streamed_from_bytes_(cache_bytes() / static_cast<uint64_t>(config.machine.ranks)),
      shared_scratch_pool_(std::make_shared<ScratchPool>(&shared)),
      scratch_pool_(config.executor == nullptr ? std::make_shared<ScratchPool>()
                                               : shared_scratch_pool_) {}

void OperationBuilder::check(const CollectiveCall& call) const {
  const CallShape& shape = call.shape;
  if (has_root(shape.collective) && (shape.root < 0 || shape.root >= config_.world)) {
    refuse(call, "root " + std::to_string(shape.root) + " is not a rank; allowed: 0 to " +
                     std::to_string(config_.world - 1));
  }
  if (reduces(shape.collective) && find_reduce(shape.dtype, shape.reduce_op) == nullptr) {
    refuse(call, why_not(shape.dtype, shape.reduce_op));
  }
  check_counts(call, config_.rank, config_.world);
  check_codec(call);
  if (config_.executor != nullptr) check_for_gpu(call);
}

void OperationBuilder::fill(Operation& operation, CollectiveCall& call, const Plan& plan) const {
  Task& task = operation.task;
  const CallShape& shape = call.shape;
  task.call.shape = shape;
  if (!has_root(shape.collective)) task.call.shape.root = kNoRoot;
  task.call.algorithm = plan.choice.algorithm;
  task.call.lanes = static_cast<uint8_t>(plan.choice.lanes);
  task.key = pack(task.call);
  task.element_size = static_cast<uint32_t>(size_of(shape.dtype));
  task.rank = config_.rank;
  task.schedule = plan.schedule;
  task.sent_bytes = plan.sent_bytes;
  task.received_bytes = plan.received_bytes;
  task.codec = find_codec(shape.codec);
  const bool sums = reduces(shape.collective);
  task.reduce = sums ? find_reduce(shape.dtype, shape.reduce_op) : nullptr;
  task.reduce_both = sums ? find_reduce_both(shape.dtype, shape.reduce_op) : nullptr;
  task.factor = factors_of(call, config_.world).after;
  task.executor = config_.executor;
  if (config_.executor == nullptr) fill_for_cpu(task, plan, sums);
  task.scratch_pool = plan.schedule->scratch_shared ? shared_scratch_pool_ : scratch_pool_;
  bind(operation, call);
}

void OperationBuilder::fill_for_cpu(Task& task, const Plan& plan, bool sums) const {
  // A reduction reads its targets, so they are in the caches already.
  const bool streams = !sums && plan.received_bytes >= streamed_from_bytes_;
  task.copy = streams ? copy_streaming : CopyKernel{};
  // On AMD, a line that another core has read stays Owned, and rewriting it is slow.
  const bool rewrites = plan.schedule->scratch_shared && lines_stay_owned();
  task.staging_copy = rewrites ? copy_streaming : CopyKernel{};
  task.single_copy_from_bytes = single_copy_from_bytes(task.call.shape.collective);
}

// The frame size from which a single copy, made by the receiver out of the sender's memory, beats a
// copy into the ring and another one out of it. A reduction would need the second copy anyway. In a
// broadcast the copies in and out run at the same time, on two ranks.
uint64_t OperationBuilder::single_copy_from_bytes(Collective collective) const {
  if (!uses_single_copy_ || reduces(collective) || collective == Collective::kBroadcast) {
    return UINT64_MAX;
  }
  return oversubscribed(config_.machine.ranks, config_.machine.cores)
             ? kSingleCopyFromBytesOversubscribed
             : kSingleCopyFromBytes;
}

void OperationBuilder::bind(Operation& operation, CollectiveCall& call) const {
  Task& task = operation.task;
  task.op = call.op;
  task.is_internal = call.is_internal;
  task.input = call.input;
  task.data = call.data;
  task.residual = call.residual;
  task.random_key = call.random_key;
  task.timeout_ns = ns_of_ms(call.timeout_ms);
  operation.deadline = kNever;
  operation.started = false;
  // Large scratch is taken now, while the caller can still be told that there is no memory.
  if (task.schedule->scratch_bytes > kSmallScratchBytes) operation.take_scratch();
  task.prologue = std::move(call.prologue);
  task.epilogue = std::move(call.epilogue);
  task.keep_alive = std::move(call.keep_alive);
  const double before = factors_of(call, config_.world).before;
  if (before != 1) scale_input(operation, call, before);
}

// Only all_reduce is in place. The input of the others is the caller's, and so a copy is scaled.
void OperationBuilder::scale_input(Operation& operation, const CollectiveCall& call,
                                   double factor) const {
  Task& task = operation.task;
  const CallShape& shape = call.shape;
  const bool all_parts = shape.collective == Collective::kReduceScatter;
  const uint64_t elements = shape.count * static_cast<uint64_t>(all_parts ? config_.world : 1);
  const uint64_t size_bytes = elements * size_of(shape.dtype);
  std::byte* scaled = task.data;
  std::shared_ptr<void> owner;
  const std::byte* source = task.data;
  if (shape.collective != Collective::kAllReduce) {
    const auto scratch = std::make_shared<Scratch>(scratch_pool_, size_bytes);
    scaled = scratch->memory();
    owner = scratch;
    source = call.input;
    task.input = scaled;
  }
  task.prologue = [source, scaled, owner, size_bytes, dtype = shape.dtype, factor, elements,
                   executor = config_.executor, first = std::move(task.prologue)] {
    if (first) first();
    if (executor != nullptr) return executor->scale(scaled, source, size_bytes, dtype, factor);
    if (owner != nullptr) std::memcpy(scaled, source, size_bytes);
    scale(scaled, elements, dtype, factor);
  };
}

}  // namespace fastgpu
