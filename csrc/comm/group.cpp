#include "comm/group.h"

#include <cstring>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "base/log.h"
#include "comm/tuner.h"
#include "kernels/reduce.h"

namespace fastgpu {
namespace {

// Below this an asynchronous operation is tried at once; above, it would hold up its caller.
constexpr uint64_t kInlineBytes = 64 * 1024;
constexpr TimeNs kDrainLimit = 2 * kSecond;

bool has_root(Collective collective) {
  return collective == Collective::kBroadcast || collective == Collective::kReduce ||
         collective == Collective::kGather || collective == Collective::kScatter;
}

bool reduces(Collective collective) {
  return collective == Collective::kAllReduce || collective == Collective::kReduceScatter ||
         collective == Collective::kReduce;
}

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

[[noreturn]] void refuse(const CollectiveCall& call, const std::string& why) {
  raise(ErrorKind::kInvalidArgument, std::string(name_of(call.collective)) + ": " + why);
}

}  // namespace

// The group's channels and who fails with them: called by the runner and by the control thread.
struct Group::Shared {
  Shared(const CommunicatorConfig& config, Topology ranks, Process& process, int lanes)
      : topology(std::move(ranks)),
        rank(config.rank),
        name(config.name),
        id(config.world > 0 ? topology.records[0].communicator : 0),
        connector(process.connector()),
        engine(process.engine()),
        channels(std::make_shared<ChannelSet>(
            process.engine(), config.world, lanes,
            [this](int peer, int lane) { connector.open(id, rank, peer, lane); },
            [this](int peer, const Failure& failure) { peer_failed(peer, failure); })) {}

  // The first failure: says who and what, tells the peers, and takes everything down.
  void on_failure(Failure& failure) {
    Failure told = failure;
    told.rank = rank;
    const std::string departure = channels->departure(told.peer);
    if (told.kind == ErrorKind::kPeerLost && !departure.empty()) {
      told.message = name_of_rank(topology, told.peer) + " " + departure;
    }
    std::string where = "rank " + std::to_string(rank) + ", group '" + name + "'";
    if (!told.op.empty()) where += ", " + told.op;
    if (told.sequence >= 0) where += " #" + std::to_string(told.sequence);
    told.message = where + ": " + told.message;
    const bool is_first = latch(told);
    failure = std::move(told);
    if (is_first) {
      log(LogLevel::kInfo, "group_failed", "reason=" + quoted(failure.message));
      connector.fail(id, rank, failure);
      channels->hang_up();
    }
    fail_others(failure);
  }

  // Keeps the first failure of all and gives it to those that come later; says whether it is this.
  bool latch(Failure& failure) {
    const std::lock_guard lock(first_mutex);
    if (first) {
      failure = *first;
      return false;
    }
    first = failure;
    return true;
  }

  void peer_failed(int peer, const Failure& failure) {
    Failure mine = failure;
    mine.message = "reported by rank " + std::to_string(peer) + ": " + failure.message;
    fail_others(mine);
    engine.submitted();
  }

  void fail_others(const Failure& failure) {
    if (const auto queue = collectives.lock()) queue->fail_with(failure);
    if (const auto queue = messages.lock()) queue->fail_with(failure);
  }

  const Topology topology;
  const int rank;
  const std::string name;
  const uint64_t id;
  Connector& connector;
  Engine& engine;
  std::mutex first_mutex;  // a runner and the caller of shutdown may both bring the first
  std::optional<Failure> first;
  std::weak_ptr<OperationQueue> collectives;
  std::weak_ptr<PointToPoint> messages;
  std::shared_ptr<ChannelSet> channels;
};

std::shared_ptr<Communicator> Communicator::create(const CommunicatorConfig& config, Store& store,
                                                   Process& process) {
  if (config.world < 1 || config.world >= kNoRoot || config.rank < 0 ||
      config.rank >= config.world) {
    raise(ErrorKind::kInvalidArgument, "rank " + std::to_string(config.rank) + " of a world of " +
                                           std::to_string(config.world) +
                                           ": the world has 1 to 65534 ranks, numbered from 0");
  }
  RendezvousRequest request;
  request.rank = config.rank;
  request.world = config.world;
  request.name = config.name;
  request.options = config.options;
  request.store_host = config.store_host;
  request.store_port = config.store_port;
  request.constants = process.constants();
  request.deadline = deadline_after_ms(config.timeout_ms);
  const Topology topology = meet(request, store, process.connector());
  auto group = std::make_shared<Group>(config, topology, process);
  group->calibrate();
  return group;
}

Group::Group(const CommunicatorConfig& config, const Topology& topology, Process& process)
    : config_(config),
      process_(process),
      shared_(std::make_shared<Shared>(
          config, topology, process,
          (config.options.lanes > 0 ? config.options.lanes : kMaxChosenLanes) + 1)),
      planner_(config.rank, config.world, topology.host_of, config.options),
      wires_(std::make_shared<WirePool>()),
      timeout_ms_(config.timeout_ms) {
  const auto shared = shared_;
  const auto on_failure = [shared](Failure& failure) { shared->on_failure(failure); };
  const int lanes = planner_.lanes();
  const auto on_abandoned = [&heap = process.heap()](const std::byte* data) {
    heap.take_back(data);
  };
  collectives_ =
      std::make_shared<OperationQueue>(*shared->channels, lanes, on_failure, on_abandoned);
  messages_ = std::make_shared<PointToPoint>(*shared->channels, config.world, lanes, on_failure);
  shared->collectives = collectives_;
  shared->messages = messages_;
  process_.connector().attach(shared->id, config.rank, shared->channels, topology.addresses);
  process_.engine().add(collectives_);
  process_.engine().add(messages_);
  if (topology.ranks_on_machine > available_cores()) process_.engine().set_crowded(true);
}

Group::~Group() { shutdown(); }

void Group::calibrate() {
  const std::string& known = shared_->topology.records[0].constants;
  if (config_.world == 1) return;
  const std::string constants =
      known.empty() ? measure_constants(*this, shared_->topology.host_of) : known;
  process_.set_constants(constants);
  planner_.set_constants(constants_from_text(constants));
  spare_plan_.reset();
}

std::shared_ptr<Work> Group::run(CollectiveCall call) {
  check(call);
  if (call.synchronous && process_.engine().begin()) return run_here(call);
  const auto operation = std::make_shared<Operation>();
  fill(*operation, call, *planner_.plan(question_of(call)));
  while (collectives_->full()) {
    process_.engine().submitted();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  collectives_->push(operation);
  std::shared_ptr<Work> work = work_of(operation);
  drive(*work, call.synchronous, call.count * operation->element_size);
  return work;
}

// The caller holds the baton: it would wait next, so it runs the operation to its end.
std::shared_ptr<Work> Group::run_here(CollectiveCall& call) {
  Engine& engine = process_.engine();
  std::shared_ptr<Operation> operation = std::move(spare_);
  try {
    if (operation == nullptr) operation = std::make_shared<Operation>();
    const PlanQuestion question = question_of(call);
    if (spare_plan_ == nullptr || !question.answered_by(*spare_plan_)) {
      spare_plan_ = planner_.plan(question);
    }
    fill(*operation, call, *spare_plan_);
    collectives_->begin(operation);
  } catch (...) {
    engine.release();
    throw;
  }
  engine.run(operation->work);
  std::shared_ptr<Work> work;
  if (operation.use_count() == 1 && operation->work.ok()) {
    operation->work.renew();
    spare_ = std::move(operation);
    work = done_work();
  } else {
    work = work_of(operation);
  }
  engine.release();
  return work;
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
}

void Group::fill(Operation& operation, CollectiveCall& call, const Plan& plan) {
  if (operation.schedule != plan.schedule) operation.schedule = plan.schedule;
  operation.sent_bytes = plan.sent_bytes;
  operation.received_bytes = plan.received_bytes;
  operation.input = call.input;
  operation.data = call.data;
  operation.call.collective = call.collective;
  operation.call.dtype = call.dtype;
  operation.call.reduce_op = call.reduce_op;
  operation.call.algorithm = plan.choice.algorithm;
  operation.call.lanes = static_cast<uint8_t>(plan.choice.lanes);
  operation.call.root = has_root(call.collective) ? static_cast<uint16_t>(call.root) : kNoRoot;
  operation.call.count = call.count;
  operation.rank = config_.rank;
  operation.element_size = static_cast<uint32_t>(size_of(call.dtype));
  operation.timeout_ns = timeout_ns(call.timeout_ms);
  operation.deadline = kNever;
  operation.started = false;
  operation.prologue = std::move(call.prologue);
  operation.epilogue = std::move(call.epilogue);
  operation.keep_alive = std::move(call.keep_alive);
  operation.reduce = nullptr;
  if (reduces(call.collective)) {
    operation.reduce = find_reduce(call.dtype, call.reduce_op);
    add_scaling(call, operation);
  }
  if (const std::size_t size = plan.schedule->wire_bytes; size > operation.wire_bytes) {
    const WirePool::Block block = wires_->take(size);
    operation.wire = block.memory;
    operation.wire_bytes = block.size_bytes;
    operation.wire_owner = std::shared_ptr<void>(
        block.memory, [pool = wires_, block](void*) { pool->give_back(block); });
  }
}

// AVG and PREMUL_SUM are sums with a factor: before the sum where the caller asked for it, and for
// float16, whose sum would overflow; else after it, where it costs no precision.
void Group::add_scaling(CollectiveCall& call, Operation& operation) {
  if (call.reduce_op != ReduceOp::kAvg && call.reduce_op != ReduceOp::kPremulSum) return;
  const bool premultiplied = call.reduce_op == ReduceOp::kPremulSum;
  const double factor = premultiplied ? call.premul_factor : 1.0 / config_.world;
  const DType dtype = call.dtype;
  const uint64_t count = call.count;
  if (!premultiplied && dtype != DType::kFloat16) {
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
    const WirePool::Block block = wires_->take(size_bytes);
    owner = std::shared_ptr<void>(block.memory,
                                  [pool = wires_, block](void*) { pool->give_back(block); });
    scaled = block.memory;
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
  drive(*message->work, call.synchronous, call.size_bytes);
  return message->work;
}

std::shared_ptr<Work> Group::recv(MessageCall call) {
  const auto message = make_message(call, false);
  messages_->post_recv(message);
  message_bytes_received_.fetch_add(call.size_bytes, std::memory_order_relaxed);
  drive(*message->work, call.synchronous, call.size_bytes);
  return message->work;
}

void Group::drive(Work& work, bool synchronous, uint64_t size_bytes) {
  Engine& engine = process_.engine();
  if (synchronous) {
    engine.wait(work, kNever);
  } else if (size_bytes <= kInlineBytes) {
    engine.try_run(work, 0);
  } else {
    engine.submitted();
  }
}

void Group::wait(Work& work, int64_t timeout_ms) {
  process_.engine().wait(work, deadline_after_ms(timeout_ms));
  if (work.done()) return work.raise_if_failed();
  Failure failure;
  failure.kind = ErrorKind::kTimeout;
  failure.rank = config_.rank;
  failure.message = "rank " + std::to_string(config_.rank) + ", group '" + config_.name +
                    "': wait timed out after " + std::to_string(timeout_ms) +
                    " ms; the operation is still pending";
  raise(failure);
}

TimeNs Group::timeout_ns(int64_t timeout_ms) const {
  if (timeout_ms < 0) timeout_ms = timeout_ms_.load(std::memory_order_relaxed);
  return timeout_ms < 0 || timeout_ms > kNever / kMillisecond / 2 ? kNever
                                                                  : timeout_ms * kMillisecond;
}

void Group::abort(const std::string& reason) {
  if (failure() != nullptr) return;
  Failure failure;
  failure.kind = ErrorKind::kAborted;
  failure.message = "aborted" + (reason.empty() ? "" : ": " + reason);
  shared_->fail_others(failure);
  drain();
}

// Waits until the runner has failed everything pending, so that the buffers are free again.
void Group::drain() {
  const TimeNs deadline = now_ns() + kDrainLimit;
  while ((collectives_->busy() || messages_->busy()) && now_ns() < deadline) {
    process_.engine().submitted();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void Group::shutdown() {
  std::call_once(shut_down_, [this] {
    if (collectives_->busy() || messages_->busy()) {
      abort("the process group was destroyed while operations were pending");
    }
    process_.connector().detach(shared_->id, config_.rank);
    Failure destroyed{.kind = ErrorKind::kAborted,
                      .message = "the process group was destroyed",
                      .rank = config_.rank,
                      .peer = kNoRank,
                      .op = "",
                      .sequence = -1};
    shared_->latch(destroyed);
    shared_->fail_others(destroyed);
    drain();
    process_.engine().remove(collectives_.get());
    process_.engine().remove(messages_.get());
    shared_->channels->hang_up();
  });
}

const std::string& Group::host_of(int rank) const {
  return shared_->topology.records.at(static_cast<std::size_t>(rank)).host;
}

Counters Group::counters() const {
  Counters counters;
  counters.operations = collectives_->sequence();
  counters.bytes_sent =
      collectives_->sent_bytes() + message_bytes_sent_.load(std::memory_order_relaxed);
  counters.bytes_received =
      collectives_->received_bytes() + message_bytes_received_.load(std::memory_order_relaxed);
  counters.busy_ns = collectives_->busy_ns();
  return counters;
}

}  // namespace fastgpu
