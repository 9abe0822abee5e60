#include "comm/communicator.h"

#include <chrono>
#include <thread>
#include <utility>

#include "base/call.h"
#include "base/log.h"
#include "comm/channel_set.h"
#include "comm/failure_report.h"
#include "comm/group_device.h"
#include "comm/operation_builder.h"
#include "comm/planner.h"
#include "comm/prepared_calls.h"
#include "comm/runtime.h"
#include "comm/topology.h"
#include "comm/tuner.h"
#include "comm/windows.h"
#include "engine/collective_queue.h"
#include "engine/failure_latch.h"
#include "engine/messages/message_queue.h"

namespace fastgpu {
namespace {

constexpr TimeNs kDrainLimit = 2 * kSecond;

// A smaller asynchronous operation is tried at once; a larger one would hold up its caller.
constexpr uint64_t kSmallBytes = 64 * 1024;

OperationBuilder::Config builder_config(const CommunicatorConfig& config,
                                        const Topology& topology) {
  return {.rank = config.rank,
          .world = config.world,
          .machine = share_of_machine(topology),
          .single_copy = config.options.single_copy};
}

RendezvousRequest request_of(const CommunicatorConfig& config, Runtime& runtime) {
  return {.rank = config.rank,
          .world = config.world,
          .name = config.name,
          .global_ranks = config.global_ranks,
          .options = config.options,
          .store_host = config.store_host,
          .store_port = config.store_port,
          .constants = runtime.constants(),
          .deadline = deadline_after_ms(config.timeout_ms)};
}

}  // namespace

std::shared_ptr<Communicator> Communicator::create(const CommunicatorConfig& config, Store& store,
                                                   Runtime& runtime) {
  if (config.world < 1 || config.world > kMaxWorld || config.rank < 0 ||
      config.rank >= config.world) {
    raise(ErrorKind::kInvalidArgument, "rank " + std::to_string(config.rank) + " of a world of " +
                                           std::to_string(config.world) + ": the world has 1 to " +
                                           std::to_string(kMaxWorld) + " ranks, numbered from 0");
  }
  RendezvousStore place(store, config.rank, config.world, config.name);
  std::shared_ptr<Communicator> made;
  try {
    runtime.start();
    Peers peers = rendezvous(request_of(config, runtime), place, runtime.connector());
    made.reset(new Communicator(config, topology_of(config.rank, std::move(peers)), runtime));
    made->join();
    runtime.add(made);
    made->calibrate();
    made->is_set_up_.store(true);
  } catch (const CommError& error) {
    const Failure* const first = made ? made->failure() : nullptr;
    raise(place.report(first != nullptr ? *first : error.failure(), kSecond, [&] {
      if (made) made->shutdown("it could not set up the group");
    }));
  }
  return made;
}

Communicator::Communicator(const CommunicatorConfig& config, Topology topology, Runtime& runtime)
    : config_(config),
      made_at_fork_(forks()),
      runtime_(runtime),
      topology_(std::make_unique<const Topology>(std::move(topology))),
      planner_(std::make_unique<Planner>(config.rank, *topology_, config.options)),
      builder_(std::make_unique<const OperationBuilder>(builder_config(config, *topology_),
                                                        runtime.heap())),
      prepared_(std::make_unique<PreparedCalls>(*planner_, *builder_)),
      latch_(std::make_shared<FailureLatch>([this](Failure& first) { on_first_failure(first); })),
      timeout_ms_(config.timeout_ms) {
  const int lanes = planner_->lanes();
  Connector& connector = runtime.connector();
  // The connector may hold the channels a little longer than this exists.
  channels_ = std::make_shared<ChannelSet>(
      runtime.engine(), config.world,
      lanes + 1 + 2 * lanes,  // then the messages' lane, and two for each lane of device memory
      [&connector, member = topology_->member](int peer, int lane) {
        connector.open({member, peer}, lane);
      },
      [latch = latch_, &engine = runtime.engine(), rank = config.rank](int peer,
                                                                       const Failure& failure) {
        Failure told = failure;
        const bool is_relayed = peer != kNoRank;
        if (is_relayed && told.peer == rank) told.peer = peer;  // it is at odds with this rank
        latch->report(std::move(told));
        engine.submit(Submission::kLarge);
      });
  collectives_ = std::make_shared<CollectiveQueue>(
      *channels_, lanes, latch_,
      [&heap = runtime.heap()](const std::byte* data) { heap.revoke(data); });
  messages_ = std::make_shared<MessageQueue>(*channels_, config.world, lanes, latch_);
  device_ = std::make_unique<GroupDevice>(
      DeviceParts{.runtime = runtime,
                  .topology = *topology_,
                  .channels = channels_,
                  .options = config_.options,
                  .planner = *planner_,
                  .latch = latch_,
                  .builder = builder_config(config, *topology_)},
      [messages = messages_](MessagePtr message) { messages->post_send(std::move(message)); });
  windows_ = std::make_unique<Windows>(*topology_, channels_, lanes, messages_, latch_);
}

Communicator::~Communicator() { shutdown(); }

void Communicator::join() {
  runtime_.engine().share_machine(share_of_machine(*topology_));  // first: shutdown() takes it back
  runtime_.connector().attach(topology_->member, channels_, topology_->addresses);
  runtime_.engine().add(collectives_);
  runtime_.engine().add(messages_);
}

// A collective call: every rank makes it first. Rank 0's constants are everyone's.
void Communicator::calibrate() {
  if (config_.world == 1) return;
  const std::string& known = topology_->records[0].constants;
  const std::string constants = known.empty() ? measure_constants(*this, *topology_) : known;
  runtime_.set_constants(constants);
  planner_->set_constants(constants_from_text(constants));
  prepared_->clear();
  collectives_->restart_numbers();
  set_up_ = all_counters();
}

std::shared_ptr<Work> Communicator::run(CollectiveCall call) {
  check_process();
  if (call.stream) return run_on_device(call);
  const bool small = call.shape.count * size_of(call.shape.dtype) <= kSmallBytes;
  call.shape.codec = codec_of(call.shape, config_.options.codec);
  call.timeout_ms = timeout_ms_of(call.timeout_ms);
  if (call.synchronous || small) {
    if (auto work = run_inline(call)) return work;
  }
  builder_->check(call);
  const auto operation = std::make_shared<Operation>();
  builder_->fill(*operation, call, *planner_->plan(call));
  collectives_->push(operation);
  submit(operation->work, call.synchronous, small ? Submission::kSmall : Submission::kLarge);
  return work_of(operation);
}

std::shared_ptr<Work> Communicator::run_on_device(CollectiveCall& call) {
  DeviceCollectives& collectives = device_->collectives(*call.stream, *this);
  call.shape.codec = codec_of(call.shape, config_.options.codec);
  call.timeout_ms = timeout_ms_of(call.timeout_ms);
  if (device_->is_captured(*call.stream)) {
    collectives.capture(call);
    return done_work();
  }
  const auto operation = collectives.push(call);
  submit(operation->work, call.synchronous, Submission::kLarge);
  return work_of(operation);
}

// nullptr, and the call is as it was, if another thread polls.
std::shared_ptr<Work> Communicator::run_inline(CollectiveCall& call) {
  std::shared_ptr<Work> work;
  runtime_.engine().run_inline(call.synchronous, [&](int polls) -> const Work* {
    const std::shared_ptr<Operation>& operation = prepared_->prepare(call);
    try {
      const bool done = collectives_->enter(operation, polls);
      const bool encodes = operation->task.codec != nullptr;
      if (done && encodes) operation->work.complete();  // it has the time of the codec
      work = done && !encodes ? done_work() : work_of(operation);
      return done ? nullptr : work.get();
    } catch (...) {
      operation->release_caller();
      throw;
    }
  });
  return work;
}

std::shared_ptr<Work> Communicator::send(MessageCall call) {
  const auto message = make_message(call, true);
  call.stream ? device_->messages(*call.stream).send(message, call) : messages_->post_send(message);
  submit_message(*message->work, call);
  return message->work;
}

std::shared_ptr<Work> Communicator::recv(MessageCall call) {
  const auto message = make_message(call, false);
  if (call.stream) device_->messages(*call.stream).recv(message, call);
  messages_->post_recv(message);
  submit_message(*message->work, call);
  return message->work;
}

// A larger message takes several polls on both sides, since it waits for kCts (clear to send).
void Communicator::submit_message(Work& work, const MessageCall& call) {
  const bool small = !call.stream && call.size_bytes <= PeerStream::kEagerBytes;
  submit(work, call.synchronous, small ? Submission::kSmall : Submission::kLarge);
}

std::shared_ptr<MessageOperation> Communicator::make_message(MessageCall& call,
                                                             bool is_send) const {
  check_process();
  const bool any = !is_send && call.peer == kAnySource;
  if (!any && (call.peer < 0 || call.peer >= config_.world || call.peer == config_.rank)) {
    raise(ErrorKind::kInvalidArgument,
          std::string(is_send ? "send" : "recv") + ": peer " + std::to_string(call.peer) +
              " is not another rank of this group; allowed: 0 to " +
              std::to_string(config_.world - 1) + " but not " + std::to_string(config_.rank));
  }
  auto message = std::make_shared<MessageOperation>();
  message->peer = any ? kNoRank : call.peer;
  message->tag = call.tag;
  message->op = call.op;
  message->put_offset_bytes = call.put_offset_bytes;
  message->data = call.data;
  message->dtype = call.dtype;
  message->size_bytes = call.size_bytes;
  message->epilogue = std::move(call.epilogue);
  message->keep_alive = std::move(call.keep_alive);
  message->work = std::make_shared<Work>(ns_of_ms(timeout_ms_of(call.timeout_ms)));
  if (call.synchronous) message->work->start_time();
  return message;
}

void Communicator::submit(Work& work, bool synchronous, Submission otherwise) {
  Engine& engine = runtime_.engine();
  engine.submit(synchronous ? Submission::kAwaited : otherwise);
  if (synchronous) engine.wait(work, kNever);
}

void Communicator::wait(Work& work, int64_t timeout_ms) {
  if (!work.done()) {
    check_process();
    if (timeout_ms < 0) start_time(work);
    runtime_.engine().wait(work, deadline_after_ms(timeout_ms));
  }
  if (work.done()) return work.raise_if_failed();
  Failure failure;
  failure.kind = ErrorKind::kTimeout;
  failure.rank = config_.rank;
  failure.message = timed_out_after(timeout_ms * kMillisecond) + "rank " +
                    std::to_string(config_.rank) + " of " + name_of_group() +
                    " waited for an operation, which is still pending: it may be waited for again";
  raise(failure);
}

void Communicator::start_time(Work& work) {
  if (messages_->await(work)) runtime_.engine().wake();
}

void Communicator::request_progress(Work& work) {
  if (forked()) return;
  start_time(work);
  runtime_.engine().submit(Submission::kLarge);
}

// Runs once, on the thread that reports the failure: the polling thread, the control thread, or the
// caller of abort().
void Communicator::on_first_failure(Failure& failure) {
  const bool is_mine = failure.rank == kNoRank || failure.rank == config_.rank;
  if (is_mine) {
    const std::string departure = channels_->departure(failure.peer);
    if (failure.kind == ErrorKind::kPeerLost && !departure.empty()) {
      failure.message = name_of_rank(*topology_, failure.peer) + " " + departure;
    }
    if (failure.kind == ErrorKind::kOutOfResources) {
      failure.peer = config_.rank;
      failure.message = name_of_rank(*topology_, config_.rank) + " " + failure.message;
    }
    if (failure.peer != kNoRank) {
      failure.message = with_name(std::move(failure.message), failure.peer,
                                  name_of_rank(*topology_, failure.peer));
    }
    if (!is_set_up_.load()) failure = in_set_up(std::move(failure));
    failure.message = report_of(failure, config_.rank, name_of_group());
  } else {
    failure.message = relayed_report(std::move(failure.message), failure.rank);
  }
  failure.rank = config_.rank;
  log(LogLevel::kInfo, "group_failed", "reason=" + in_quotes(failure.message));
  runtime_.connector().fail(topology_->member, failure);
  channels_->hang_up();
  failure.message = is_set_up_.load() ? with_advice(failure.message, failure.kind)
                                      : with_set_up_advice(failure.message);
}

void Communicator::abort(const std::string& reason) {
  if (forked()) return;
  latch_->report(make_failure(ErrorKind::kAborted, name_of_rank(*topology_, config_.rank) +
                                                       " aborted the group" +
                                                       (reason.empty() ? "" : ": " + reason)));
  drain();
}

bool Communicator::is_busy() const {
  return collectives_->busy() || messages_->busy() || device_->busy();
}

// Waits until the polling thread has failed everything pending and the buffers are free again.
void Communicator::drain() {
  const TimeNs deadline = now_ns() + kDrainLimit;
  while (is_busy() && now_ns() < deadline) {
    runtime_.engine().submit(Submission::kLarge);
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void Communicator::shutdown(const std::string& why, bool dials) {
  if (forked()) return;  // it is the parent's: the connector keeps its channels open
  std::call_once(shut_down_, [&] {
    device_->drain();
    const std::string reason = is_busy() ? "while operations were pending, " + why : why;
    // A peer in a collective may wait for others. A pending message concerns only its two ranks.
    if (collectives_->busy() || device_->busy()) abort(reason);
    runtime_.connector().detach(topology_->member, reason, dials);
    Failure destroyed = make_failure(ErrorKind::kAborted, "the process group was destroyed");
    destroyed.rank = config_.rank;
    latch_->close(std::move(destroyed));
    drain();
    runtime_.engine().remove(collectives_.get());
    runtime_.engine().remove(messages_.get());
    device_->leave();
    runtime_.engine().unshare_machine(share_of_machine(*topology_));
    channels_->hang_up();
    runtime_.remove(this);
  });
}

bool Communicator::forked() const noexcept { return forks() != made_at_fork_; }

void Communicator::check_process() const {
  if (!forked()) return;
  raise(ErrorKind::kInvalidArgument,
        "this process was forked from rank " + std::to_string(config_.rank) +
            " after its group was made, and cannot use the group: start it with spawn");
}

double Communicator::predict_us(const CollectiveCall& call) const {
  CollectiveCall encoded = call;
  encoded.shape.codec = codec_of(call.shape, config_.options.codec);
  return planner_->predict_us(encoded);
}

double Communicator::predict_us(const MessageCall& call) const {
  return planner_->predict_us(call);
}

std::string Communicator::name_of(int rank) const { return name_of_rank(*topology_, rank); }

std::string Communicator::name_of_group() const {
  const std::lock_guard lock(description_mutex_);
  return group_name(config_.name, description_, config_.global_ranks);
}

void Communicator::set_description(const std::string& description) {
  const std::lock_guard lock(description_mutex_);
  description_ = description;
}

uint64_t Communicator::id() const { return topology_->member.communicator; }

uint64_t Communicator::sequence() const { return collectives_->sequence() + device_->sequence(); }

const Failure* Communicator::failure() const { return latch_->failure(); }

Counters Communicator::counters() const {
  Counters counters = all_counters();
  counters.bytes_sent -= set_up_.bytes_sent;
  counters.bytes_received -= set_up_.bytes_received;
  counters.busy_ns -= set_up_.busy_ns;
  return counters;
}

Counters Communicator::all_counters() const {
  Counters counters;
  counters.operations = collectives_->sequence();
  counters.bytes_sent = collectives_->sent_bytes() + messages_->sent_bytes();
  counters.bytes_received = collectives_->received_bytes() + messages_->received_bytes();
  counters.busy_ns = collectives_->busy_ns();
  device_->add_to(counters);
  return counters;
}

}  // namespace fastgpu
