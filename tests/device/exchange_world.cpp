#include "exchange_world.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "kernels/reduce.h"

namespace fastgpu::test {
namespace {

constexpr int kRepeats = 2;
constexpr TimeNs kPatienceNs = 20'000'000'000;

std::size_t slot(int rank) { return static_cast<std::size_t>(rank); }

bool is_done(const std::shared_ptr<Work>& work) { return work == nullptr || work->done(); }

// Every rank's data after every turn, by the engine over host memory.
std::vector<std::vector<HostBuffers>> run_on_host(const ExchangeCase& exchange,
                                                  const std::vector<Schedule>& schedules) {
  std::vector<std::vector<HostBuffers>> turns;
  for (int turn = 0; turn < kRepeats; ++turn) {
    World world(exchange.request.world, 1, exchange.seed);
    auto& ranks = turns.emplace_back();
    for (int rank = 0; rank < exchange.request.world; ++rank) {
      ranks.push_back(draw_buffers(exchange, rank, turn));
    }
    for (int rank = 0; rank < exchange.request.world; ++rank) {
      auto operation = std::make_shared<Operation>();
      operation->task = make_task(exchange, schedules[slot(rank)], rank);
      operation->task.input = ranks[slot(rank)].input.data();
      operation->task.data = ranks[slot(rank)].data.data();
      operation->task.scratch_pool = std::make_shared<ScratchPool>();
      world.queues[slot(rank)]->push(std::move(operation));
    }
    if (!world.run(1'000'000)) throw std::runtime_error("the host world does not end");
  }
  return turns;
}

}  // namespace

std::string describe(const ExchangeCase& exchange) {
  const PlanRequest& request = exchange.request;
  return std::string(name_of(request.collective)) + " " + std::string(name_of(request.algorithm)) +
         ", world " + std::to_string(request.world) + ", count " + std::to_string(request.count) +
         ", " + std::string(name_of(exchange.dtype)) + " " +
         std::string(name_of(exchange.reduce_op)) + ", lanes " + std::to_string(request.lanes) +
         (exchange.in_heap ? "" : ", private memory") + ", seed " + std::to_string(exchange.seed);
}

HostBuffers draw_buffers(const ExchangeCase& exchange, int rank, int turn) {
  std::mt19937_64 random(exchange.seed * 1000 + slot(rank) * 10 + static_cast<uint64_t>(turn));
  const std::size_t bytes =
      exchange.request.count * slot(exchange.request.world) * size_of(exchange.dtype) + 16;
  HostBuffers buffers{std::vector<std::byte>(bytes), std::vector<std::byte>(bytes)};
  for (auto* buffer : {&buffers.input, &buffers.data}) {
    for (std::byte& byte : *buffer) byte = static_cast<std::byte>(random());
  }
  return buffers;
}

Task make_task(const ExchangeCase& exchange, const Schedule& schedule, int rank) {
  const PlanRequest& request = exchange.request;
  Task task;
  CallShape& shape = task.call.shape;
  shape.collective = request.collective;
  shape.dtype = exchange.dtype;
  shape.reduce_op = exchange.reduce_op;
  shape.root = has_root(request.collective) ? request.root : kNoRoot;
  shape.count = exchange.all_counts.empty() ? request.count : 0;
  task.call.algorithm = request.algorithm;
  task.call.lanes = static_cast<uint8_t>(request.lanes);
  task.key = pack(task.call);
  task.element_size = request.element_size;
  task.rank = rank;
  task.timeout_ns = exchange.timeout_ns;
  task.schedule = std::make_shared<const Schedule>(schedule);
  if (reduces(request.collective)) {
    task.reduce = find_reduce(exchange.dtype, exchange.reduce_op);
    if (exchange.reduce_op == ReduceOp::kAvg) task.factor = 1.0 / request.world;
  }
  return task;
}

DeviceRank::DeviceRank(ExchangeWorld& world, DeviceRuntime& runtime, int rank)
    : world_(world),
      runtime_(runtime),
      rank_(rank),
      device_(rank / world.exchange().ranks_per_device),
      heap_(runtime, device_, 1 << 16),
      executor_(runtime, device_),
      stream_(runtime.make_stream(device_)) {
  for (int peer = 0; peer < world.exchange().request.world; ++peer) {
    segments_.push_back(std::make_unique<PeerDeviceSegments>(runtime, device_));
  }
  const std::size_t bytes = draw_buffers(world.exchange(), rank, 0).data.size();
  input_ = allocate(bytes);
  data_ = allocate(bytes);
  channels_ = std::make_unique<DeviceChannels>(
      DeviceChannelParts{.runtime = runtime,
                         .executor = executor_,
                         .heap = heap_,
                         .peers = *this,
                         .host_channels = world.host_channels(rank),
                         .chunk_bytes = world.exchange().chunk_bytes},
      latch);
  queue_ = std::make_unique<CollectiveQueue>(*channels_, kLanes, latch);
}

DeviceRank::~DeviceRank() {
  runtime_.synchronize(stream_);
  queue_.reset();
  channels_.reset();
  executor_.finish();
  for (std::byte* memory : pinned_) runtime_.free_pinned(memory);
  for (const DeviceSegment& segment : private_) runtime_.free(segment);
  runtime_.destroy(stream_);
}

std::byte* DeviceRank::allocate(std::size_t size_bytes) {
  if (world_.exchange().in_heap) return heap_.allocate(size_bytes);
  private_.push_back(runtime_.allocate(device_, size_bytes));
  return private_.back().base;
}

std::byte* DeviceRank::pinned(std::size_t size_bytes) {
  pinned_.push_back(runtime_.allocate_pinned(size_bytes));
  return pinned_.back();
}

bool DeviceRank::maps(int peer) {
  const std::vector<int>& hosts = world_.exchange().host_of;
  return hosts.empty() || hosts[slot(peer)] == hosts[slot(rank_)];
}

void DeviceRank::share(int peer, uint32_t segment) {
  world_.send(rank_, peer, segment, heap_.share(segment));
}

std::shared_ptr<Work> DeviceRank::start(const Schedule& schedule, const HostBuffers& buffers) {
  return start(schedule, buffers, world_.exchange());
}

std::shared_ptr<Work> DeviceRank::start(const Schedule& schedule, const HostBuffers& buffers,
                                        const ExchangeCase& call) {
  const std::pair<std::byte*, const std::vector<std::byte>*> fills[] = {{input_, &buffers.input},
                                                                        {data_, &buffers.data}};
  for (const auto& [target, bytes] : fills) {
    std::byte* const source = pinned(bytes->size());
    std::memcpy(source, bytes->data(), bytes->size());
    runtime_.copy(stream_, target, source, bytes->size());
  }
  auto operation = std::make_shared<Operation>();
  Task& task = operation->task;
  task = make_task(call, schedule, rank_);
  task.input = input_;
  task.data = data_;
  task.scratch_pool = scratch_pool_;
  task.executor = &executor_;
  task.prologue = [this] { executor_.start_after(stream_); };
  task.epilogue = [this] { executor_.finish_before(stream_); };
  task.keep_alive = executor_.keep(token_);
  queue_->push(operation);
  return work_of(operation);
}

void DeviceRank::read_back() {
  const std::size_t bytes = draw_buffers(world_.exchange(), rank_, 0).data.size();
  std::byte* const result = pinned(bytes);
  runtime_.copy(stream_, result, data_, bytes);
  results_.emplace_back(result, bytes);
}

std::vector<std::vector<std::byte>> DeviceRank::results() {
  runtime_.synchronize(stream_);
  std::vector<std::vector<std::byte>> all;
  for (const auto& [memory, bytes] : results_) all.emplace_back(memory, memory + bytes);
  return all;
}

bool DeviceRank::poll() {
  bool moved = queue_->busy() && queue_->poll();
  if (!moved) queue_->expire(now_ns());
  if (channels_->busy()) moved |= channels_->poll();
  return moved;
}

ExchangeWorld::ExchangeWorld(const ExchangeCase& exchange)
    : exchange_(exchange),
      random_(exchange.seed),
      schedules_(schedules_of(exchange)),
      host_(exchange.request.world, exchange.capacity, exchange.seed) {
  host_.plan.block_probability = 0.2;
  const int per_device = exchange.ranks_per_device;
  runtime_ =
      make_pretended_runtime({.devices = (exchange.request.world + per_device - 1) / per_device,
                              .seed = exchange.seed,
                              .most_delay_us = exchange.most_delay_us,
                              .fault = exchange.fault});
  for (int rank = 0; rank < exchange.request.world; ++rank) {
    ranks_.push_back(std::make_unique<DeviceRank>(*this, *runtime_, rank));
  }
}

void ExchangeWorld::send(int from, int to, uint32_t segment, SharedSegment shared) {
  mail_.push_back({from, to, segment, std::move(shared)});
}

bool ExchangeWorld::poll() {
  std::vector<int> order;
  for (int rank = 0; rank < exchange_.request.world; ++rank) order.push_back(rank);
  std::shuffle(order.begin(), order.end(), random_);
  bool busy = false;
  bool moved = false;
  for (const int rank : order) {
    moved |= ranks_[slot(rank)]->poll();
    busy |= ranks_[slot(rank)]->busy();
  }
  std::erase_if(mail_, [&](const Mail& mail) {
    if (random_() % 4 != 0) return false;
    ranks_[slot(mail.to)]->receive(mail.from, mail.segment, mail.shared);
    return true;
  });
  if (!moved) std::this_thread::yield();
  return busy;
}

std::string run_exchange(const ExchangeCase& exchange) {
  ExchangeWorld world(exchange);
  const int count = exchange.request.world;
  std::vector<std::shared_ptr<Work>> works(slot(count));
  std::vector<int> turns(slot(count));
  const TimeNs deadline = now_ns() + kPatienceNs;
  for (bool busy = true; busy;) {
    busy = world.poll();
    for (int rank = 0; rank < count; ++rank) {
      std::shared_ptr<Work>& work = works[slot(rank)];
      if (!is_done(work)) continue;
      if (work != nullptr && !work->ok())
        return describe(exchange) + ": " + work->failure().message;
      if (work != nullptr) world.rank(rank).read_back();
      work = nullptr;
      if (turns[slot(rank)] == kRepeats) continue;
      const int turn = turns[slot(rank)]++;
      work = world.rank(rank).start(world.schedule(rank), draw_buffers(exchange, rank, turn));
      busy = true;
    }
    if (now_ns() > deadline) return describe(exchange) + ": does not end";
  }
  std::vector<Schedule> schedules;
  for (int rank = 0; rank < count; ++rank) schedules.push_back(world.schedule(rank));
  const auto expected = run_on_host(exchange, schedules);
  for (int rank = 0; rank < count; ++rank) {
    if (world.rank(rank).kept() != 0) return describe(exchange) + ": memory is still kept";
    const auto results = world.rank(rank).results();
    for (int turn = 0; turn < kRepeats; ++turn) {
      if (results.size() != kRepeats) return describe(exchange) + ": a result is missing";
      if (results[slot(turn)] == expected[slot(turn)][slot(rank)].data) continue;
      return describe(exchange) + ": rank " + std::to_string(rank) + " differs in operation " +
             std::to_string(turn);
    }
  }
  return "";
}

ExchangeCase draw_exchange(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](uint64_t n) { return static_cast<int>(random() % n); };
  ExchangeCase drawn;
  static_cast<CallCase&>(drawn) = draw_call(random, 4);
  drawn.seed = seed;
  drawn.ranks_per_device = 1 + below(4);
  drawn.in_heap = below(4) != 0;
  drawn.chunk_bytes = uint64_t{16} << below(5);
  drawn.capacity = slot(below(4));
  return drawn;
}

}  // namespace fastgpu::test
