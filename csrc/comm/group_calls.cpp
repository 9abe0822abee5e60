// The calls on a group: checked, planned, and handed to the engine as operations and messages.
#include <algorithm>
#include <cstring>
#include <thread>

#include "base/cache_lines.h"
#include "comm/group.h"
#include "kernels/copy.h"
#include "kernels/reduce.h"

namespace fastgpu {
namespace {

// Below this an asynchronous operation is tried at once; above, it would hold up its caller.
constexpr uint64_t kTriedAtOnceBytes = 64 * 1024;

// Below these the pages that the kernel must look up take longer than a second copy does; where
// ranks share cores the sender is likely to have to wait for its turn, too.
constexpr uint64_t kLeastSingleCopyBytes = 32 * 1024;
constexpr uint64_t kLeastSingleCopyBytesOversubscribed = 64 * 1024;

PlanQuestion question_of(const CollectiveCall& call) {
  PlanQuestion question;
  question.collective = call.collective;
  question.count = call.count;
  question.element_size = static_cast<uint32_t>(size_of(call.dtype));
  question.root = call.root;
  question.send_counts = call.send_counts;
  question.recv_counts = call.recv_counts;
  return question;
}

// Whether sums of few numbers overflow: float16 and the 8-bit floats.
bool is_narrow(DType dtype) {
  return dtype == DType::kFloat16 || (dtype >= DType::kFloat8E4M3 && dtype < DType::kInt8);
}

[[noreturn]] void refuse(const CollectiveCall& call, const std::string& why) {
  raise(ErrorKind::kInvalidArgument, std::string(name_of(call.collective)) + ": " + why);
}

}  // namespace

std::shared_ptr<Work> Group::run(CollectiveCall call) {
  check_process();
  const bool small = call.count * size_of(call.dtype) <= kTriedAtOnceBytes;
  if (call.synchronous || (small && !collectives_->full())) {
    if (runtime_.engine().begin()) return run_here(call);
  }
  check(call);
  const auto operation = std::make_shared<Operation>();
  fill(*operation, call, *planner_.plan(question_of(call)));
  while (collectives_->full()) {
    runtime_.engine().submitted();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  collectives_->push(operation);
  std::shared_ptr<Work> work = work_of(operation);
  drive(*work, call.synchronous, small);
  return work;
}

// The caller holds the progress lock. Where it would wait next it runs the operation to its end;
// else it looks no longer than it may alone, and once more.
std::shared_ptr<Work> Group::run_here(CollectiveCall& call) {
  Engine& engine = runtime_.engine();
  const bool synchronous = call.synchronous;
  Prepared& prepared = prepared_[slot_of(call)];
  bool done = false;
  try {
    prepare(prepared, call);
    const int looks = engine.looks_alone();
    done = collectives_->begin(prepared.operation, looks);
  } catch (...) {
    if (prepared.operation != nullptr) prepared.operation->release_caller();
    engine.release();
    throw;
  }
  if (done) {
    engine.end();
    return done_work();
  }
  std::shared_ptr<Operation>& operation = prepared.operation;
  if (synchronous) {
    engine.run(operation->work);
  } else {
    engine.pass();
  }
  std::shared_ptr<Work> work;
  if (operation.use_count() == 1 && operation->work.done() && operation->work.ok()) {
    operation->work.renew();
    work = done_work();
  } else {
    work = work_of(std::exchange(operation, nullptr));
  }
  engine.release();
  return work;
}

// Counts are often multiples of large powers of two, so it is the product's high bits that tell.
std::size_t Group::slot_of(const CollectiveCall& call) noexcept {
  const uint64_t kind =
      static_cast<uint64_t>(call.collective) << 8 | static_cast<uint8_t>(call.dtype);
  return ((call.count ^ kind << 48) * 0x9E3779B97F4A7C15U) >> (64 - kPreparedBits);
}

bool Group::Prepared::fits(const CollectiveCall& call) const {
  return plan != nullptr && call.count == plan->key.count &&
         call.collective == plan->key.collective && call.root == plan->key.root &&
         call.dtype == dtype && call.reduce_op == reduce_op && plan->even &&
         call.send_counts.empty() && call.recv_counts.empty();
}

void Group::prepare(Prepared& prepared, CollectiveCall& call) {
  const bool fits = prepared.fits(call);
  if (fits && prepared.operation != nullptr) return bind(*prepared.operation, call);
  if (!fits) check(call);
  std::shared_ptr<const Plan> plan =
      fits ? std::move(prepared.plan) : planner_.plan(question_of(call));
  prepared.plan.reset();  // until the rest fits it
  if (prepared.operation == nullptr) prepared.operation = std::make_shared<Operation>();
  fill(*prepared.operation, call, *plan);
  prepared.plan = std::move(plan);
  prepared.dtype = call.dtype;
  prepared.reduce_op = call.reduce_op;
}

void Group::check_process() const {
  if (!forked()) return;
  raise(ErrorKind::kInvalidArgument,
        "this process was forked from rank " + std::to_string(config_.rank) +
            " after its group was made, and cannot use the group: start it with spawn");
}

void Group::check(const CollectiveCall& call) const {
  const auto ranks = static_cast<std::size_t>(config_.world);
  if (has_root(call.collective) && (call.root < 0 || call.root >= config_.world)) {
    refuse(call, "root " + std::to_string(call.root) + " is not a rank; allowed: 0 to " +
                     std::to_string(config_.world - 1));
  }
  if (reduces(call.collective) && find_reduce(call.dtype, call.reduce_op) == nullptr) {
    refuse(call, why_not(call.dtype, call.reduce_op));
  }
  if (call.send_counts.size() != call.recv_counts.size() ||
      (!call.send_counts.empty() && call.send_counts.size() != ranks)) {
    refuse(call, "send and receive counts must be given for each of the " + std::to_string(ranks) +
                     " ranks, not for " + std::to_string(call.send_counts.size()) + " and " +
                     std::to_string(call.recv_counts.size()));
  }
  if (call.send_counts.empty()) return;
  const auto me = static_cast<std::size_t>(config_.rank);
  if (call.send_counts[me] != call.recv_counts[me]) {
    refuse(call, "this rank sends itself " + std::to_string(call.send_counts[me]) +
                     " elements, and has room for " + std::to_string(call.recv_counts[me]) +
                     " of its own; both must be the same");
  }
}

// All that follows from what is called, and so holds for the next call like it, too.
void Group::fill(Operation& operation, CollectiveCall& call, const Plan& plan) {
  operation.schedule = plan.schedule;
  operation.sent_bytes = plan.sent_bytes;
  operation.received_bytes = plan.received_bytes;
  operation.call.collective = call.collective;
  operation.call.dtype = call.dtype;
  operation.call.reduce_op = call.reduce_op;
  operation.call.algorithm = plan.choice.algorithm;
  operation.call.lanes = static_cast<uint8_t>(plan.choice.lanes);
  operation.call.root = has_root(call.collective) ? static_cast<uint16_t>(call.root) : kNoRoot;
  operation.call.count = call.count;
  operation.key = pack(operation.call);
  operation.rank = config_.rank;
  operation.element_size = static_cast<uint32_t>(size_of(call.dtype));
  operation.reduce = nullptr;
  operation.reduce_both = nullptr;
  if (reduces(call.collective)) {
    operation.reduce = find_reduce(call.dtype, call.reduce_op);
    operation.reduce_both = find_reduce_both(call.dtype, call.reduce_op);
  }
  // A reduction reads its targets first: they are in the caches, and may as well be written there.
  const bool streams = operation.reduce == nullptr && plan.received_bytes >= least_streamed_bytes_;
  operation.copy = streams ? copy_streaming : CopyKernel{};
  // Lines that others have read are dear to write again where they stay their writer's.
  const bool rewrites = plan.schedule->scratch_shared && lines_stay_owned();
  operation.staging_copy = rewrites ? copy_streaming : CopyKernel{};
  operation.single_copy_from_bytes = single_copy_from_bytes(call.collective);
  operation.scratch_pool = plan.schedule->scratch_shared ? shared_scratch_pool_ : scratch_pool_;
  bind(operation, call);
}

// From which size on a frame out of private memory is better read by its receiver than copied in
// and out. What is reduced is not, for the kernel would only copy it once more; nor is a broadcast,
// in which one rank copies in while another copies out.
uint64_t Group::single_copy_from_bytes(Collective collective) const {
  if (!uses_single_copy_ || reduces(collective) || collective == Collective::kBroadcast)
    return UINT64_MAX;
  return oversubscribed(share_.ranks, share_.cores) ? kLeastSingleCopyBytesOversubscribed
                                                    : kLeastSingleCopyBytes;
}

// What is this call's own.
void Group::bind(Operation& operation, CollectiveCall& call) {
  operation.input = call.input;
  operation.data = call.data;
  operation.timeout_ns = timeout_ns(call.timeout_ms);
  operation.deadline = kNever;
  operation.started = false;
  operation.prologue = std::move(call.prologue);
  operation.epilogue = std::move(call.epilogue);
  operation.keep_alive = std::move(call.keep_alive);
  if (operation.schedule->scratch_bytes > kSmallScratchBytes) operation.take_scratch();
  if (operation.reduce != nullptr) add_scaling(call, operation);
}

// AVG and PREMUL_SUM are sums with a factor: before the sum where the caller asked for it, and
// where the sum would overflow; else after it, where it costs no precision.
void Group::add_scaling(CollectiveCall& call, Operation& operation) {
  if (call.reduce_op != ReduceOp::kAvg && call.reduce_op != ReduceOp::kPremulSum) return;
  const bool premultiplied = call.reduce_op == ReduceOp::kPremulSum;
  const double factor = premultiplied ? call.premul_factor : 1.0 / config_.world;
  const DType dtype = call.dtype;
  const uint64_t count = call.count;
  if (!premultiplied && !is_narrow(dtype)) {
    if (call.collective == Collective::kReduce && call.root != config_.rank) return;
    operation.epilogue = [data = operation.data, count, dtype, factor,
                          then = std::move(operation.epilogue)] {
      scale(data, count, dtype, factor);
      if (then) then();
    };
    return;
  }
  const bool in_place = call.collective == Collective::kAllReduce;
  const uint64_t parts = call.collective == Collective::kReduceScatter
                             ? static_cast<uint64_t>(config_.world)
                             : uint64_t{1};
  const uint64_t size_bytes = parts * count * size_of(dtype);
  std::byte* scaled = operation.data;
  std::shared_ptr<void> owner;
  if (!in_place) {
    // The caller's input is not ours to change.
    const auto scratch = std::make_shared<Scratch>(scratch_pool_, size_bytes);
    scaled = scratch->memory();
    owner = scratch;
    operation.input = scaled;
  }
  operation.prologue = [source = call.input, scaled, owner, size_bytes, dtype, factor,
                        elements = parts * count, first = std::move(operation.prologue)] {
    if (first) first();
    if (owner != nullptr) std::memcpy(scaled, source, size_bytes);
    scale(scaled, elements, dtype, factor);
  };
}

std::shared_ptr<MessageOperation> Group::make_message(MessageCall& call, bool is_send) const {
  check_process();
  const char* op = is_send ? "send" : "recv";
  const bool any = !is_send && call.peer == kAnySource;
  if (!any && (call.peer < 0 || call.peer >= config_.world || call.peer == config_.rank)) {
    raise(ErrorKind::kInvalidArgument, std::string(op) + ": peer " + std::to_string(call.peer) +
                                           " is not another rank of this group; allowed: 0 to " +
                                           std::to_string(config_.world - 1) + " but not " +
                                           std::to_string(config_.rank));
  }
  auto message = std::make_shared<MessageOperation>();
  message->peer = any ? kNoRank : call.peer;
  message->tag = call.tag;
  message->data = call.data;
  message->size_bytes = call.size_bytes;
  const TimeNs limit = timeout_ns(call.timeout_ms);
  message->deadline = limit == kNever ? kNever : now_ns() + limit;
  message->epilogue = std::move(call.epilogue);
  message->keep_alive = std::move(call.keep_alive);
  message->work = std::make_shared<Work>();
  return message;
}

std::shared_ptr<Work> Group::send(MessageCall call) {
  const auto message = make_message(call, true);
  messages_->post_send(message);
  message_bytes_sent_.fetch_add(call.size_bytes, std::memory_order_relaxed);
  // A larger one takes several looks on both sides: its receiver grants it first.
  drive(*message->work, call.synchronous, call.size_bytes <= MessageQueue::kEagerBytes);
  return message->work;
}

std::shared_ptr<Work> Group::recv(MessageCall call) {
  const auto message = make_message(call, false);
  messages_->post_recv(message);
  message_bytes_received_.fetch_add(call.size_bytes, std::memory_order_relaxed);
  drive(*message->work, call.synchronous, call.size_bytes <= MessageQueue::kEagerBytes);
  return message->work;
}

void Group::drive(Work& work, bool synchronous, bool small) {
  Engine& engine = runtime_.engine();
  if (synchronous) {
    engine.wake();
    engine.wait(work, kNever);
  } else if (small) {
    engine.submitted_small();
  } else {
    engine.submitted();
  }
}

TimeNs Group::timeout_ns(int64_t timeout_ms) const {
  if (timeout_ms < 0) timeout_ms = timeout_ms_.load(std::memory_order_relaxed);
  return timeout_ms < 0 || timeout_ms > kNever / kMillisecond / 2 ? kNever
                                                                  : timeout_ms * kMillisecond;
}

}  // namespace fastgpu
