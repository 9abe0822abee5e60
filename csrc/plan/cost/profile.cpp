#include "plan/cost/profile.h"

#include <algorithm>
#include <bit>
#include <map>

#include "plan/build.h"
#include "plan/cost/step_order.h"
#include "plan/sums.h"

namespace fastgpu {
namespace {

// All ranks are profiled if they take no more steps than this together (a ring of 64), or few each
// (trees). Of one lane: prices of one lane and of several must err alike.
constexpr std::size_t kMaxSteps = 16384;
constexpr std::size_t kFewSteps = 16;

// So many elements that all ranks' shards are equal. They have a byte each, or 4 with a codec.
uint64_t count_for(const ProfileRequest& request) {
  constexpr uint64_t kMaxCount = uint64_t{1} << 28;
  const auto world = static_cast<uint64_t>(request.placement.world);
  const uint64_t parts = 2 * world * static_cast<uint64_t>(request.lanes);
  if (request.codec != Codec::kNone) return parts * kTopkBlock;  // the largest block of a codec
  const uint64_t equal = parts * std::bit_floor(world);
  return equal <= kMaxCount ? equal : parts;
}

std::size_t steps_of(const Schedule& schedule) {
  std::size_t steps = 0;
  for (const Lane& lane : schedule.lanes) steps += lane.size();
  return steps;
}

class Profiler {
 public:
  explicit Profiler(const ProfileRequest& request)
      : request_(request),
        host_of_(hosts_of(request.placement)),
        count_(count_for(request)),
        element_size_(request.codec == Codec::kNone ? 1 : sizeof(float)),
        call_bytes_(count_ * element_size_) {}

  Profile run() {
    build_ranks();
    for (std::size_t i = 0; i < ranks_.size(); ++i) profile_.ranks.push_back(work_of(ranks_[i]));
    share_interfaces();
    order_steps(ranks_, {request_.placement.world, host_of_, call_bytes_}, profile_);
    return std::move(profile_);
  }

 private:
  Schedule build_rank(int rank, uint64_t chunks = 1) const {
    PlanRequest plan;
    plan.collective = request_.collective;
    plan.algorithm = request_.algorithm;
    plan.rank = rank;
    plan.world = request_.placement.world;
    plan.count = request_.collective == Collective::kBarrier ? 0 : count_;
    plan.lanes = request_.lanes;
    plan.element_size = element_size_;
    plan.codec = request_.codec;
    plan.chunk_bytes = call_bytes_ / static_cast<uint64_t>(request_.lanes) / chunks;
    plan.shots = request_.shots;
    plan.host_of = host_of_;
    Schedule schedule = build(plan);
    if (request_.merges_sums) leave_out_set_aside(schedule);
    return schedule;
  }
  void build_ranks();
  RankWork work_of(const RankSchedule& rank) const;
  void share_interfaces();
  int host_of(int rank) const {
    return host_of_.empty() ? 0 : host_of_[static_cast<std::size_t>(rank)];
  }

  const ProfileRequest& request_;
  const std::vector<int> host_of_;
  const uint64_t count_;
  const uint32_t element_size_;
  const uint64_t call_bytes_;
  std::vector<RankSchedule> ranks_;
  Profile profile_;
};

// All ranks; or a sample: both ends of the first host and a rank between them. Rank 0 is the root.
void Profiler::build_ranks() {
  const Placement& placement = request_.placement;
  const int world = placement.world;
  const int locals = placement.hosts > 1 ? placement.most_per_host : world;
  const int middle = locals > 2 ? locals / 2 : world / 2;
  std::map<int, Schedule> built;
  std::size_t most = 0;
  for (const int rank : {0, middle}) {
    most = std::max(most, steps_of(built[rank] = build_rank(rank)));
  }
  profile_.pipelined = steps_of(built[0]) != steps_of(build_rank(0, 2));
  most /= static_cast<std::size_t>(request_.lanes);
  profile_.complete = most <= kFewSteps || most * static_cast<std::size_t>(world) <= kMaxSteps;
  const auto add = [&](int rank, double weight) {
    const auto found = built.find(rank);
    ranks_.push_back({rank, found == built.end() ? build_rank(rank) : std::move(found->second)});
    profile_.weights.push_back(weight);
  };
  if (profile_.complete) {
    for (int rank = 0; rank < world; ++rank) add(rank, 1);
    return;
  }
  const double hosts = static_cast<double>(world) / locals;
  add(0, locals > 1 ? hosts : 1);
  if (locals != 2) add(middle, locals > 2 ? hosts * (locals - 2) : world - 1);
  if (locals > 1) add(locals - 1, hosts);
}

RankWork Profiler::work_of(const RankSchedule& rank) const {
  RankWork work;
  const Schedule& schedule = rank.schedule;
  for (const Lane& lane : schedule.lanes) {
    for (const Step& step : lane) {
      const uint64_t size_bytes = step.verb == Verb::kCopy   ? copied_bytes(step)
                                  : step.verb == Verb::kRecv ? step.target.size_bytes
                                                             : step.source.size_bytes;
      const double bytes = static_cast<double>(size_bytes) / static_cast<double>(call_bytes_);
      if (step.coding != Coding::kPlain) {
        (step.coding == Coding::kEncode ? work.codec.encoded
         : step.reduce                  ? work.codec.added
                                        : work.codec.decoded) += bytes;
        continue;
      }
      if (step.reduce) work.bytes_reduced += bytes;
      if (step.verb == Verb::kCopy) {
        work.bytes_copied += bytes;
        continue;
      }
      Traffic& traffic = work.traffic(host_of(rank.rank) != host_of(step.peer));
      if (step.verb == Verb::kRecv) {
        ++traffic.frames_received;
        traffic.bytes_received += bytes;
        if (bytes > 0) ++work.payloads_received;
        continue;
      }
      ++traffic.frames_sent;
      traffic.bytes_sent += bytes;
      if (schedule.scratch_shared && step.source.buffer == Buffer::kScratch) {
        work.bytes_read_in_place += bytes;
      }
    }
  }
  return work;
}

// All ranks of a host send to other hosts through one interface. In a sample the first host's ranks
// stand for all of it.
void Profiler::share_interfaces() {
  const Placement& placement = request_.placement;
  if (placement.hosts == 1) return;
  const double of_a_host =
      profile_.complete ? 1 : static_cast<double>(placement.most_per_host) / placement.world;
  const auto host = [&](std::size_t i) {
    return profile_.complete ? static_cast<std::size_t>(host_of(ranks_[i].rank)) : 0;
  };
  std::vector<Traffic> hosts(static_cast<std::size_t>(placement.hosts));
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const Traffic& own = profile_.ranks[i].between_hosts;
    hosts[host(i)].bytes_sent += profile_.weights[i] * of_a_host * own.bytes_sent;
    hosts[host(i)].bytes_received += profile_.weights[i] * of_a_host * own.bytes_received;
  }
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    RankWork& work = profile_.ranks[i];
    const Traffic& own = work.between_hosts;
    const Traffic& all = hosts[host(i)];
    if (own.bytes_sent > 0) work.interface_sharing_out = all.bytes_sent / own.bytes_sent;
    if (own.bytes_received > 0) {
      work.interface_sharing_in = all.bytes_received / own.bytes_received;
    }
  }
}

}  // namespace

Profile profile_of(const ProfileRequest& request) { return Profiler(request).run(); }

}  // namespace fastgpu
