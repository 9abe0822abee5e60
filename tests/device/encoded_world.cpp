#include "encoded_world.h"

#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "check.h"
#include "codec/codec.h"
#include "codec/random_key.h"
#include "codec_world.h"
#include "kernels/cuda/find_codec.h"
#include "kernels/reduce.h"
#include "memory.h"
#include "plan/proof/verify.h"
#include "sim/memory_world.h"

namespace fastgpu::test {
namespace {

constexpr int kTurns = 2;

struct Elements {
  std::size_t first = 0;
  std::size_t count = 0;
};

// What a rank has of an array before or after an all_reduce.
struct RankNumbers {
  DeviceMemory data;
  DeviceMemory residual;
};

std::size_t bytes_of(std::size_t count) { return count * sizeof(float); }
float* floats_of(const DeviceMemory& memory) { return reinterpret_cast<float*>(memory.data()); }

std::vector<Schedule> schedules_of(const EncodedCase& encoded_case) {
  PlanRequest request;
  request.algorithm = Algorithm::kDirect;
  request.world = encoded_case.world;
  request.count = encoded_case.count;
  request.element_size = sizeof(float);
  request.codec = encoded_case.codec;
  request.shots = 2;
  return build_all(request);
}

// The elements whose sum the schedule's rank encodes, and then decodes.
Elements part_of(const Schedule& schedule) {
  const Step* encode = nullptr;
  for (const Step& step : schedule.lanes.front()) {
    if (step.coding == Coding::kEncode) encode = &step;
    const bool own = encode != nullptr && step.coding == Coding::kDecode && !step.reduce &&
                     step.source == encode->target;
    if (own)
      return {step.target.offset_bytes / sizeof(float), step.target.size_bytes / sizeof(float)};
  }
  return {};
}

uint64_t key_of(const EncodedCase& encoded_case, std::size_t rank, int turn) {
  return derived_key(encoded_case.seed, rank * 10 + static_cast<uint64_t>(turn));
}

void fill(const EncodedCase& encoded_case, const DeviceMemory& data, std::size_t rank, int turn) {
  std::mt19937_64 random(key_of(encoded_case, rank, turn));
  fill_numbers(floats_of(data), encoded_case.count, 1e37F, random);
}

std::vector<RankNumbers> make_numbers(const EncodedCase& encoded_case) {
  std::vector<RankNumbers> ranks;
  for (int rank = 0; rank < encoded_case.world; ++rank) {
    ranks.push_back(
        {DeviceMemory(bytes_of(encoded_case.count)), DeviceMemory(bytes_of(encoded_case.count))});
    std::fill_n(floats_of(ranks.back().residual), encoded_case.count, 0.0F);
  }
  return ranks;
}

// The all_reduce of the CPU's engine.
void reduce_on_cpu(const EncodedCase& encoded_case, const std::vector<Schedule>& schedules,
                   const std::vector<RankNumbers>& ranks, int turn) {
  World world(encoded_case.world, 1, encoded_case.seed);
  std::vector<std::shared_ptr<Work>> works;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    fill(encoded_case, ranks[rank].data, rank, turn);
    auto operation = std::make_shared<Operation>();
    Task& task = operation->task;
    task.schedule = std::make_shared<const Schedule>(schedules[rank]);
    task.data = ranks[rank].data.data();
    if (encoded_case.feedback) task.residual.values = floats_of(ranks[rank].residual);
    if (encoded_case.stochastic) task.random_key = key_of(encoded_case, rank, turn);
    task.scratch_pool = std::make_shared<ScratchPool>();
    task.call.shape.dtype = DType::kFloat32;
    task.call.shape.count = encoded_case.count;
    task.key = pack(task.call);
    task.element_size = sizeof(float);
    task.reduce = find_reduce(DType::kFloat32, ReduceOp::kSum);
    task.factor = encoded_case.factor;
    task.codec = find_codec(encoded_case.codec);
    world.queues[rank]->push(operation);
    works.push_back(work_of(operation));
  }
  CHECK(world.run(10'000));
  for (const auto& work : works) CHECK(work->ok());
}

// Ranks with a GPU each. A rank sums up its part of the data.
class EncodedWorld {
 public:
  EncodedWorld(simt::Machine& machine, const EncodedCase& encoded_case,
               const std::vector<Schedule>& schedules)
      : machine_(machine), case_(encoded_case), numbers_(make_numbers(encoded_case)) {
    for (std::size_t rank = 0; rank < numbers_.size(); ++rank) {
      parts_.push_back(part_of(schedules[rank]));
      const std::size_t size_bytes = encoded_bytes(case_.codec, parts_.back().count);
      frames_.emplace_back();
      for (std::size_t from = 0; from < numbers_.size(); ++from) {
        frames_.back().emplace_back(size_bytes);
      }
      streams_.push_back(machine.make_stream(static_cast<int>(rank)));
      for (auto* events : {&sent_, &summed_, &taken_}) events->push_back(machine.make_event());
    }
  }

  const std::vector<RankNumbers>& numbers() const { return numbers_; }
  void enqueue(int turn, std::vector<DeviceMemory>& results) {
    for (std::size_t rank = 0; rank < numbers_.size(); ++rank) send(rank, turn);
    for (std::size_t rank = 0; rank < numbers_.size(); ++rank) sum_up(rank, turn);
    for (std::size_t rank = 0; rank < numbers_.size(); ++rank) take(rank, results[rank]);
  }
  void synchronize() {
    for (simt::Stream* stream : streams_) machine_.synchronize(stream);
  }

 private:
  // The frame from a rank to the one that sums up `part`; of that rank itself: the sum.
  std::byte* frame(std::size_t part, std::size_t from) const { return frames_[part][from].data(); }

  void encode(std::size_t rank, std::size_t part, int turn) {
    const auto [first, count] = parts_[part];
    const device::EncodeArgs args{floats_of(numbers_[rank].data) + first,
                                  floats_of(numbers_[rank].residual) + first, frame(part, rank),
                                  count, derived_key(key_of(case_, rank, turn), first)};
    const device::EncodeKernel kernel = device::find_encode(
        case_.codec, {.feedback = case_.feedback, .stochastic = case_.stochastic});
    machine_.launch(streams_[rank], {.blocks = 2}, [kernel, args] { kernel(args); });
  }

  void decode(std::size_t rank, std::size_t part, device::DecodeArgs args) {
    args.target = floats_of(numbers_[rank].data) + parts_[part].first;
    args.count = parts_[part].count;
    args.factor = part == rank && args.plain_at >= 0 ? case_.factor : 1;
    const device::DecodeKernel kernel = device::find_decode(case_.codec);
    machine_.launch(streams_[rank], {.blocks = 2}, [kernel, args] { kernel(args); });
  }

  void send(std::size_t rank, int turn) {
    for (simt::Event* event : taken_) machine_.wait(streams_[rank], event);
    machine_.call(streams_[rank],
                  [this, rank, turn] { fill(case_, numbers_[rank].data, rank, turn); });
    for (std::size_t part = 0; part < parts_.size(); ++part) {
      if (part != rank) encode(rank, part, turn);
    }
    machine_.record(streams_[rank], sent_[rank]);
  }

  void sum_up(std::size_t rank, int turn) {
    for (simt::Event* event : sent_) machine_.wait(streams_[rank], event);
    device::DecodeArgs args{};
    args.plain = floats_of(numbers_[rank].data) + parts_[rank].first;
    args.plain_at = static_cast<int>(rank);
    for (std::size_t from = 0; from < parts_.size(); ++from) {
      if (from != rank) args.sources.at[args.sources.count++] = frame(rank, from);
    }
    decode(rank, rank, args);
    encode(rank, rank, turn);
    machine_.record(streams_[rank], summed_[rank]);
  }

  void take(std::size_t rank, DeviceMemory& result) {
    for (simt::Event* event : summed_) machine_.wait(streams_[rank], event);
    for (std::size_t part = 0; part < parts_.size(); ++part) {
      device::DecodeArgs args{};
      args.sources.at[0] = frame(part, part);
      args.sources.count = 1;
      args.plain_at = -1;
      decode(rank, part, args);
    }
    machine_.record(streams_[rank], taken_[rank]);
    machine_.call(streams_[rank], [this, rank, &result] {
      std::memcpy(result.data(), numbers_[rank].data.data(), result.size_bytes());
    });
  }

  simt::Machine& machine_;
  const EncodedCase& case_;
  std::vector<RankNumbers> numbers_;
  std::vector<Elements> parts_;                    // by the rank that sums them up
  std::vector<std::vector<DeviceMemory>> frames_;  // by part and sender
  std::vector<simt::Stream*> streams_;
  std::vector<simt::Event*> sent_;
  std::vector<simt::Event*> summed_;
  std::vector<simt::Event*> taken_;
};

}  // namespace

std::string run_encoded(const EncodedCase& encoded_case) {
  const std::vector<Schedule> schedules = schedules_of(encoded_case);
  simt::Machine machine({.seed = encoded_case.seed, .fault = encoded_case.fault});
  EncodedWorld world(machine, encoded_case, schedules);
  std::vector<std::vector<DeviceMemory>> results(kTurns);
  for (int turn = 0; turn < kTurns; ++turn) {
    std::vector<DeviceMemory>& of_turn = results[static_cast<std::size_t>(turn)];
    for (int rank = 0; rank < encoded_case.world; ++rank) {
      of_turn.emplace_back(bytes_of(encoded_case.count));
    }
    world.enqueue(turn, of_turn);
  }
  world.synchronize();

  const std::string name = std::string(name_of(encoded_case.codec)) + ", world " +
                           std::to_string(encoded_case.world) + ", count " +
                           std::to_string(encoded_case.count) + ", seed " +
                           std::to_string(encoded_case.seed);
  const std::vector<RankNumbers> expected = make_numbers(encoded_case);
  for (int turn = 0; turn < kTurns; ++turn) {
    reduce_on_cpu(encoded_case, schedules, expected, turn);
    for (std::size_t rank = 0; rank < expected.size(); ++rank) {
      const DeviceMemory& result = results[static_cast<std::size_t>(turn)][rank];
      if (!(result == expected[0].data))
        return name + ": rank " + std::to_string(rank) + " differs";
      if (!(result == expected[rank].data)) return name + ": the CPU's ranks differ";
    }
  }
  for (std::size_t rank = 0; rank < expected.size(); ++rank) {
    if (!encoded_case.feedback || world.numbers()[rank].residual == expected[rank].residual)
      continue;
    return name + ": the residual of rank " + std::to_string(rank) + " differs";
  }
  return "";
}

}  // namespace fastgpu::test
