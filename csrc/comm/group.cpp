#include "comm/group.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <thread>

#include "base/cache_lines.h"
#include "base/log.h"
#include "comm/tuner.h"
#include "kernels/copy.h"

namespace fastgpu {
namespace {

constexpr TimeNs kDrainLimit = 2 * kSecond;

// Where lines stay their writer's when others read them, a sender would pay for the copy that a
// read saves, and more, when it next writes to its buffer.
bool uses_single_copy(SingleCopy wanted) {
  return wanted == SingleCopy::kAlways || (wanted == SingleCopy::kAuto && !lines_stay_owned());
}

}  // namespace

// The group's channels and who fails with them: called by the progress thread and by the control
// thread.
struct Group::Shared {
  Shared(const CommunicatorConfig& config, Topology ranks, Runtime& runtime)
      : topology(std::move(ranks)),
        rank(config.rank),
        name(config.name),
        id(config.world > 0 ? topology.records[0].communicator : 0),
        connector(runtime.connector()),
        engine(runtime.engine()) {}

  // The channels outlive this where the connector is slow to let go of them.
  static std::shared_ptr<Shared> make(const CommunicatorConfig& config, const Topology& ranks,
                                      Runtime& runtime, int planned_lanes) {
    const int lanes = planned_lanes + 1;  // the last one is the messages'
    auto shared = std::make_shared<Shared>(config, ranks, runtime);
    const std::weak_ptr<Shared> self = shared;
    shared->channels = std::make_shared<ChannelSet>(
        runtime.engine(), config.world, lanes,
        [self](int peer, int lane) {
          if (const auto alive = self.lock()) {
            alive->connector.open(alive->id, alive->rank, peer, lane);
          }
        },
        [self](int peer, const Failure& failure) {
          if (const auto alive = self.lock()) alive->peer_failed(peer, failure);
        });
    return shared;
  }

  // The first failure: says who and what, tells the peers, and takes everything down.
  void on_failure(Failure& failure) {
    Failure told = failure;
    const bool is_mine = told.rank == kNoRank || told.rank == rank;  // else a peer's
    told.rank = rank;
    const std::string departure = channels->departure(told.peer);
    if (told.kind == ErrorKind::kPeerLost && !departure.empty()) {
      told.message = name_of_rank(topology, told.peer) + " " + departure;
    }
    if (is_mine && told.kind == ErrorKind::kTimeout && told.peer != kNoRank) {
      told.message += "; look at " + name_of_rank(topology, told.peer);
    }
    std::string where = "rank " + std::to_string(rank) + ", group '" + name + "'";
    if (is_mine && !told.op.empty()) where += ", " + told.op;
    if (is_mine && told.sequence >= 0) where += " #" + std::to_string(told.sequence);
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
    if (mine.peer == rank) mine.peer = peer;  // whom the reporter is at odds with is this rank
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
  std::mutex first_mutex;  // a progress thread and the caller of shutdown may both bring the first
  std::optional<Failure> first;
  std::weak_ptr<CollectiveQueue> collectives;
  std::weak_ptr<MessageQueue> messages;
  std::shared_ptr<ChannelSet> channels;
};

std::shared_ptr<Communicator> Communicator::create(const CommunicatorConfig& config, Store& store,
                                                   Runtime& runtime) {
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
  request.constants = runtime.constants();
  request.deadline = deadline_after_ms(config.timeout_ms);
  const Topology topology =
      topology_of(config.rank, rendezvous(request, store, runtime.connector()));
  auto group = std::make_shared<Group>(config, topology, runtime);
  group->calibrate();
  return group;
}

Group::Group(const CommunicatorConfig& config, const Topology& topology, Runtime& runtime)
    : config_(config),
      runtime_(runtime),
      planner_(config.rank, topology, config.options),
      least_streamed_bytes_(cache_bytes() / static_cast<uint64_t>(topology.ranks_on_machine)),
      share_{topology.ranks_on_machine, topology.cores_on_machine},
      uses_single_copy_(uses_single_copy(config.options.single_copy)),
      shared_(Shared::make(config, topology, runtime, planner_.lanes())),
      scratch_pool_(std::make_shared<ScratchPool>()),
      shared_scratch_pool_(std::make_shared<ScratchPool>(&runtime.heap())),
      timeout_ms_(config.timeout_ms) {
  const auto shared = shared_;
  const auto on_failure = [shared](Failure& failure) { shared->on_failure(failure); };
  const int lanes = planner_.lanes();
  const auto on_abandoned = [&heap = runtime.heap()](const std::byte* data) { heap.revoke(data); };
  collectives_ =
      std::make_shared<CollectiveQueue>(*shared->channels, lanes, on_failure, on_abandoned);
  messages_ = std::make_shared<MessageQueue>(*shared->channels, config.world, lanes, on_failure);
  shared->collectives = collectives_;
  shared->messages = messages_;
  runtime_.connector().attach(shared->id, config.rank, shared->channels, topology.addresses);
  runtime_.engine().add(collectives_);
  runtime_.engine().add(messages_);
  runtime_.engine().share_machine(share_);
}

Group::~Group() { shutdown(); }

void Group::calibrate() {
  const std::string& known = shared_->topology.records[0].constants;
  if (config_.world == 1) return;
  const std::string constants = known.empty() ? measure_constants(*this, shared_->topology) : known;
  runtime_.set_constants(constants);
  planner_.set_constants(constants_from_text(constants));
  prepared_ = {};
}

void Group::wait(Work& work, int64_t timeout_ms) {
  if (!work.done()) check_process();
  runtime_.engine().wait(work, deadline_after_ms(timeout_ms));
  if (work.done()) return work.raise_if_failed();
  Failure failure;
  failure.kind = ErrorKind::kTimeout;
  failure.rank = config_.rank;
  failure.message = "rank " + std::to_string(config_.rank) + ", group '" + config_.name +
                    "': wait timed out after " + std::to_string(timeout_ms) +
                    " ms; the operation is still pending";
  raise(failure);
}

void Group::abort(const std::string& reason) {
  if (forked()) return;
  if (failure() != nullptr) return;
  Failure failure;
  failure.kind = ErrorKind::kAborted;
  failure.message = "aborted" + (reason.empty() ? "" : ": " + reason);
  shared_->fail_others(failure);
  drain();
}

// Waits until the progress thread has failed everything pending, so that the buffers are free
// again.
void Group::drain() {
  const TimeNs deadline = now_ns() + kDrainLimit;
  while ((collectives_->busy() || messages_->busy()) && now_ns() < deadline) {
    runtime_.engine().submitted();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void Group::shutdown() {
  if (forked()) return;  // it is the parent's: the connector keeps its channels open
  std::call_once(shut_down_, [this] {
    if (collectives_->busy() || messages_->busy()) {
      abort("the process group was destroyed while operations were pending");
    }
    runtime_.connector().detach(shared_->id, config_.rank);
    Failure destroyed{.kind = ErrorKind::kAborted,
                      .message = "the process group was destroyed",
                      .rank = config_.rank,
                      .peer = kNoRank,
                      .op = "",
                      .sequence = -1};
    shared_->latch(destroyed);
    shared_->fail_others(destroyed);
    drain();
    runtime_.engine().remove(collectives_.get());
    runtime_.engine().remove(messages_.get());
    runtime_.engine().unshare_machine(share_);
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
