#include "plan/cost/step_order.h"

#include <algorithm>
#include <array>
#include <functional>
#include <queue>
#include <unordered_map>
#include <utility>

namespace fastgpu {
namespace {

// Times here only decide which lane of a rank goes first. A frame takes its share of the call's
// bytes, and a little more.
constexpr double kFrameTime = 1e-3;

class StepOrder {
 public:
  StepOrder(std::span<const RankSchedule> ranks, const OrderRequest& request, Profile& profile)
      : ranks_(ranks),
        host_of_(request.host_of),
        size_bytes_(static_cast<double>(request.size_bytes)),
        profile_(profile),
        is_profiled_(static_cast<std::size_t>(request.world)),
        processors_(ranks.size()) {
    for (uint32_t i = 0; i < ranks.size(); ++i) {
      is_profiled_[static_cast<std::size_t>(ranks[i].rank)] = true;
      for (const Lane& lane : ranks[i].schedule.lanes) lanes_.push_back({i, &lane});
    }
    profile_.lanes = static_cast<uint32_t>(lanes_.size());
  }

  void run() {
    for (uint32_t lane = 0; lane < lanes_.size(); ++lane) ready_.push({0, lane});
    while (!ready_.empty()) {
      const auto [time, lane] = ready_.top();
      ready_.pop();
      if (lanes_[lane].next < lanes_[lane].steps->size()) advance(lane, time);
    }
  }

 private:
  struct Progress {
    uint32_t rank;  // index into ranks_
    const Lane* steps;
    std::size_t next = 0;
    int rounds = 0;
    // Frames without payload and with: those sent, and how many were received.
    std::array<std::vector<uint32_t>, 2> sent{};
    std::array<std::size_t, 2> received{};
  };
  // The frames that one rank sends to a peer in a lane.
  struct Channel {
    std::vector<uint32_t> frames;
    std::size_t received = 0;
    uint32_t waiting_lane = kNoLane;
    uint32_t link = 0;
  };
  struct Frame {
    double left = 0;
    int rounds = 0;
  };
  static constexpr uint32_t kNoLane = UINT32_MAX;

  static uint64_t key_of(int from, int to, uint32_t lane) {
    return static_cast<uint64_t>(from) << 40 | static_cast<uint64_t>(to) << 16 | lane;
  }
  bool between_hosts(int rank, int peer) const {
    return !host_of_.empty() &&
           host_of_[static_cast<std::size_t>(rank)] != host_of_[static_cast<std::size_t>(peer)];
  }
  // The lane's number within its rank.
  uint32_t lane_in_rank(const Progress& lane) const {
    return static_cast<uint32_t>(lane.steps - ranks_[lane.rank].schedule.lanes.data());
  }

  void advance(uint32_t lane, double time);
  bool receive(uint32_t lane, double time, ProfiledStep& result);
  void send(Progress& lane, const Step& step, ProfiledStep& result);
  Channel& channel(int from, int to, uint32_t lane);
  uint32_t own_frame(const Progress& lane, const Step& step) const;

  std::span<const RankSchedule> ranks_;
  std::span<const int> host_of_;
  const double size_bytes_;
  Profile& profile_;
  std::vector<bool> is_profiled_;   // by rank of the world
  std::vector<double> processors_;  // free from then on
  std::vector<Progress> lanes_;
  std::vector<Frame> frames_;
  std::vector<double> link_bytes_;
  std::unordered_map<uint64_t, Channel> channels_;
  using Ready = std::pair<double, uint32_t>;  // time, lane
  std::priority_queue<Ready, std::vector<Ready>, std::greater<>> ready_;
};

// Takes the lane's next step, or puts the lane off until its frame is there.
void StepOrder::advance(uint32_t number, double time) {
  Progress& lane = lanes_[number];
  const Step& step = (*lane.steps)[lane.next];
  const bool receives = step.verb == Verb::kRecv;
  ProfiledStep result{.reduce = step.reduce, .rank = lane.rank, .lane = number};
  if (receives && !receive(number, time, result)) return;
  const uint64_t moved = (receives ? step.target : step.source).size_bytes;
  if (step.coding == Coding::kPlain) result.bytes = static_cast<double>(moved) / size_bytes_;
  double& processor = processors_[lane.rank];
  processor = std::max(processor, time) + result.bytes + kFrameTime;
  if (step.verb == Verb::kSend) send(lane, step, result);
  ++lane.next;
  profile_.steps.push_back(result);
  ready_.push({processor, number});
}

// False: its frame comes later, and the lane waits for it.
bool StepOrder::receive(uint32_t number, double time, ProfiledStep& result) {
  Progress& lane = lanes_[number];
  const Step& step = (*lane.steps)[lane.next];
  const int me = ranks_[lane.rank].rank;
  result.kind = ProfiledStep::Kind::kReceive;
  result.between_hosts = between_hosts(me, step.peer);
  if (is_profiled_[static_cast<std::size_t>(step.peer)]) {
    Channel& from = channel(step.peer, me, lane_in_rank(lane));
    if (from.received == from.frames.size()) {
      from.waiting_lane = number;
      return false;
    }
    result.frame = from.frames[from.received];
    if (frames_[result.frame].left > time) {
      ready_.push({frames_[result.frame].left, number});
      return false;
    }
    ++from.received;
  } else {
    result.frame = own_frame(lane, step);
  }
  ++lane.received[step.target.size_bytes > 0];
  if (result.frame == kNoFrame) return true;
  lane.rounds = std::max(lane.rounds, frames_[result.frame].rounds);
  profile_.rounds = std::max(profile_.rounds, lane.rounds);
  return true;
}

// A peer that is not profiled is taken to have sent its k-th frame when this lane sent its own
// k-th.
uint32_t StepOrder::own_frame(const Progress& lane, const Step& step) const {
  const bool payload = step.target.size_bytes > 0;
  const auto& own = lane.sent[payload];
  const std::size_t index = lane.received[payload];
  return own.empty() ? kNoFrame : own[std::min(index, own.size() - 1)];
}

void StepOrder::send(Progress& lane, const Step& step, ProfiledStep& result) {
  const RankSchedule& mine = ranks_[lane.rank];
  result.kind = ProfiledStep::Kind::kSend;
  result.between_hosts = between_hosts(mine.rank, step.peer);
  result.in_place = mine.schedule.scratch_shared && step.source.buffer == Buffer::kScratch;
  result.frame = profile_.frames++;
  frames_.push_back({processors_[lane.rank], lane.rounds + 1});
  lane.sent[step.source.size_bytes > 0].push_back(result.frame);

  Channel& to = channel(mine.rank, step.peer, lane_in_rank(lane));
  result.link = to.link;
  if (!result.in_place) link_bytes_[to.link] += result.bytes;
  double& busiest = profile_.busiest_link[result.between_hosts];
  busiest = std::max(busiest, link_bytes_[to.link]);
  to.frames.push_back(result.frame);
  if (to.waiting_lane == kNoLane) return;
  ready_.push({processors_[lane.rank], to.waiting_lane});
  to.waiting_lane = kNoLane;
}

// Between hosts every lane is a stream of its own. Inside a host the lanes from one rank to another
// share a link: the processors move their bytes.
StepOrder::Channel& StepOrder::channel(int from, int to, uint32_t lane) {
  const auto [at, is_new] = channels_.try_emplace(key_of(from, to, lane));
  Channel& found = at->second;
  if (!is_new) return found;
  if (lane > 0 && !between_hosts(from, to)) {
    found.link = channel(from, to, 0).link;
  } else {
    found.link = profile_.links++;
    link_bytes_.push_back(0);
  }
  return found;
}

}  // namespace

void order_steps(std::span<const RankSchedule> ranks, const OrderRequest& request,
                 Profile& profile) {
  StepOrder(ranks, request, profile).run();
}

}  // namespace fastgpu
