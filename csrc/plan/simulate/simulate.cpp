#include "plan/simulate/simulate.h"

#include <algorithm>
#include <map>
#include <optional>
#include <queue>
#include <string>

#include "base/error.h"
#include "plan/simulate/program.h"
#include "plan/simulate/simulated_parts.h"
#include "plan/sums.h"

namespace fastgpu {
namespace {

using namespace simulated;

class Simulation {
 public:
  Simulation(int world, const Program& program, const Machine& machine);
  Simulated run();

 private:
  using Kind = Event::Kind;

  void make_channels(const Program& program);
  void handle(const Event& event);
  void run_lane(uint32_t lane);
  void post(const CompactStep& send);
  void wait_for(uint32_t lane, uint32_t channel);
  void write_piece(uint32_t channel);
  void send_piece(uint32_t channel);
  void start_receive(uint32_t lane);
  void end_receive(uint32_t lane);
  uint64_t room_for(const ChannelState& channel, const Frame& frame) const;
  void at(double time_us, Kind kind, uint32_t subject) {
    events_.push({time_us, next_number_++, subject, kind});
  }
  const LinkCosts& costs_of(const ChannelState& channel) const {
    return channel.leaves_host ? machine_.constants.between_hosts : machine_.constants.same_host;
  }
  // Occupies the processor of a rank. Returns when the work ends.
  double serve(int rank, double now, double work_us) {
    const auto index = static_cast<std::size_t>(rank);
    if (!shared_cores_.empty()) {
      const auto machine = static_cast<std::size_t>(machine_of(rank));
      if (shared_cores_[machine])
        return shared_cores_[machine]->serve(rank, processors_[index], now, work_us);
    }
    return processors_[index].serve(now, work_us) + work_us;
  }
  int machine_of(int rank) const {
    return machine_.machine_of.empty() ? host_of(rank)
                                       : machine_.machine_of[static_cast<std::size_t>(rank)];
  }
  int host_of(int rank) const {
    return machine_.host_of.empty() ? 0 : machine_.host_of[static_cast<std::size_t>(rank)];
  }
  uint32_t new_frame(uint64_t size_bytes);
  void check_ended() const;
  Simulated result() const;

  const Program& program_;
  const Machine& machine_;
  std::vector<Server> processors_;                  // by rank
  std::vector<std::optional<Cores>> shared_cores_;  // by machine; unset if it has enough
  std::vector<double> slowness_;                    // by rank
  std::vector<double> finish_us_;                   // by rank
  std::vector<Server> nics_out_;                    // by host
  std::vector<Server> nics_in_;
  std::vector<ChannelState> channels_;
  std::vector<std::size_t> next_step_;  // by lane
  std::vector<Frame> frames_;
  uint32_t spare_frames_ = kNone;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  uint64_t next_number_ = 0;
  double now_ = 0;
};

void require_size(std::size_t size, int world, const char* what) {
  if (size != 0 && size != static_cast<std::size_t>(world)) {
    raise(ErrorKind::kInvalidArgument, std::string("simulate: ") + what + " has " +
                                           std::to_string(size) + " entries for " +
                                           std::to_string(world) + " ranks");
  }
}

// The number of ranks by index; an empty list puts all ranks at index 0.
std::vector<int> ranks_by(int world, const std::vector<int>& index_of) {
  if (index_of.empty()) return {world};
  std::vector<int> counts(1 + static_cast<std::size_t>(*std::ranges::max_element(index_of)));
  for (const int index : index_of) ++counts[static_cast<std::size_t>(index)];
  return counts;
}

Simulation::Simulation(int world, const Program& program, const Machine& machine)
    : program_(program), machine_(machine) {
  const auto ranks = static_cast<std::size_t>(world);
  processors_.resize(ranks);
  finish_us_.resize(ranks);
  slowness_.assign(ranks, 1.0);
  if (!machine.rank_slowness.empty()) slowness_ = machine.rank_slowness;
  const std::size_t hosts = ranks_by(world, machine.host_of).size();
  nics_out_.resize(hosts);
  nics_in_.resize(hosts);
  if (const int cores = machine.constants.cores_per_host; cores > 0) {
    const auto& sharing = machine.machine_of.empty() ? machine.host_of : machine.machine_of;
    for (const int ranks : ranks_by(world, sharing)) {
      auto& shared = shared_cores_.emplace_back();
      if (ranks > cores) shared.emplace(cores, machine.constants.switch_us);
    }
  }
  make_channels(program);
  next_step_.resize(program.lanes().size());
  for (uint32_t lane = 0; lane < next_step_.size(); ++lane) {
    const auto rank = static_cast<std::size_t>(program.lanes()[lane].rank);
    at(machine.start_us.empty() ? 0 : machine.start_us[rank], Kind::kRunLane, lane);
  }
}

void Simulation::make_channels(const Program& program) {
  std::map<std::pair<int, int>, double> factors;
  for (const SlowLink& slow : machine_.slow_links) factors[{slow.from, slow.to}] = slow.factor;
  channels_.reserve(program.channels().size());
  for (const ChannelEnds& ends : program.channels()) {
    const auto [least, most] = std::minmax(ends.from, ends.to);
    if (least < 0 || most >= static_cast<int>(processors_.size())) {
      raise(ErrorKind::kInvalidArgument, "simulate: a schedule names rank " +
                                             std::to_string(least < 0 ? least : most) +
                                             ", which does not exist");
    }
    ChannelState channel;
    channel.from = ends.from;
    channel.to = ends.to;
    channel.leaves_host = host_of(ends.from) != host_of(ends.to);
    const auto slow = factors.find({ends.from, ends.to});
    if (slow != factors.end()) channel.factor = slow->second;
    channels_.push_back(channel);
  }
}

uint32_t Simulation::new_frame(uint64_t size_bytes) {
  uint32_t index = spare_frames_;
  if (index == kNone) {
    index = static_cast<uint32_t>(frames_.size());
    frames_.emplace_back();
  } else {
    spare_frames_ = frames_[index].next;
  }
  frames_[index] = {.size_bytes = size_bytes};
  return index;
}

Simulated Simulation::run() {
  while (!events_.empty()) {
    const Event event = events_.top();
    events_.pop();
    now_ = event.time_us;
    handle(event);
  }
  check_ended();
  return result();
}

void Simulation::handle(const Event& event) {
  switch (event.kind) {
    case Kind::kRunLane:
      return run_lane(event.subject);
    case Kind::kReceiveStart:
      return start_receive(event.subject);
    case Kind::kReceiveEnd:
      return end_receive(event.subject);
    case Kind::kPieceLeaves:
      return send_piece(event.subject);
  }
}

// Runs a lane up to its next receive, or to the end of a copy.
void Simulation::run_lane(uint32_t lane) {
  const CompactLane& steps = program_.lanes()[lane];
  const auto rank = static_cast<std::size_t>(steps.rank);
  std::size_t& next = next_step_[lane];
  for (; next < steps.size(); ++next) {
    const CompactStep& current = steps[next];
    if (current.verb == Verb::kSend) {
      post(current);
      continue;
    }
    if (current.verb == Verb::kRecv) return wait_for(lane, current.channel);
    const Constants& constants = machine_.constants;
    const double per_byte =
        constants.copy_us_per_byte + (current.reduce ? constants.reduce_us_per_byte : 0);
    const double work = static_cast<double>(current.size_bytes) * per_byte * slowness_[rank];
    const double end = serve(steps.rank, now_, work);
    ++next;
    return at(end, Kind::kRunLane, lane);
  }
  finish_us_[rank] = std::max(finish_us_[rank], now_);
}

void Simulation::post(const CompactStep& send) {
  ChannelState& channel = channels_[send.channel];
  const uint32_t index = new_frame(send.size_bytes);
  (channel.head == kNone ? channel.head : frames_[channel.tail].next) = index;
  channel.tail = index;
  if (channel.leaving == kNone) channel.leaving = index;
  ++channel.frames;
  channel.bytes += send.size_bytes;
  write_piece(send.channel);
}

// The bytes of the frame that may leave now: all of them if the receiver waits for it, else the
// free space of the channel.
uint64_t Simulation::room_for(const ChannelState& channel, const Frame& frame) const {
  const uint64_t rest = frame.size_bytes - frame.moved_bytes;
  const bool awaited = channel.waiting_lane != kNone && channel.leaving == channel.head;
  if (awaited) return rest;
  const uint64_t room =
      machine_.channel_bytes - std::min(machine_.channel_bytes, channel.held_bytes);
  return std::min(rest, room);
}

// Makes the sender's processor write the next piece, if one may leave.
void Simulation::write_piece(uint32_t index) {
  ChannelState& channel = channels_[index];
  if (channel.moving || channel.leaving == kNone) return;
  Frame& frame = frames_[channel.leaving];
  const uint64_t piece = room_for(channel, frame);
  if (piece == 0 && frame.moved_bytes < frame.size_bytes) return;
  const LinkCosts& costs = costs_of(channel);
  const auto from = static_cast<std::size_t>(channel.from);
  const double overhead = frame.started ? 0 : costs.overhead_us * slowness_[from];
  const double work =
      overhead + static_cast<double>(piece) * costs.cpu_us_per_byte * slowness_[from];
  frame.moved_bytes += piece;
  channel.held_bytes += piece;
  channel.moving = true;
  channel.piece_bytes = piece;
  channel.piece_written_us = serve(channel.from, now_, work);
  at(channel.piece_written_us - work + overhead, Kind::kPieceLeaves, index);
}

// The first byte of the moving piece leaves. The piece occupies the link and, between hosts, both
// network interfaces.
void Simulation::send_piece(uint32_t index) {
  ChannelState& channel = channels_[index];
  Frame& frame = frames_[channel.leaving];
  const LinkCosts& costs = costs_of(channel);
  const auto size = static_cast<double>(channel.piece_bytes);
  const double alpha = costs.alpha_us * channel.factor;
  const double link_us = size * costs.beta_us_per_byte * channel.factor;
  double start = std::max(now_, channel.link.free_us);
  double left = std::max(start + link_us, channel.piece_written_us);
  double first_arrives = start + alpha;
  double last_arrives = left + alpha;
  if (channel.leaves_host) {
    const double nic_us = size * machine_.constants.nic_us_per_byte;
    start = nics_out_[static_cast<std::size_t>(host_of(channel.from))].serve(start, nic_us);
    left = std::max({start + link_us, start + nic_us, channel.piece_written_us});
    first_arrives =
        nics_in_[static_cast<std::size_t>(host_of(channel.to))].serve(start + alpha, nic_us);
    last_arrives = std::max(left + alpha, first_arrives + nic_us);
  }
  channel.link.serve(start, link_us);
  if (!frame.started) frame.first_arrives_us = first_arrives;
  frame.started = true;
  frame.last_arrives_us = last_arrives;
  channel.moving = false;
  double& finish = finish_us_[static_cast<std::size_t>(channel.from)];
  finish = std::max(finish, left);
  if (frame.moved_bytes == frame.size_bytes) {
    frame.whole = true;
    if (channel.waiting_lane != kNone && channel.leaving == channel.head) {
      at(std::max(now_, frame.first_arrives_us), Kind::kReceiveStart, channel.waiting_lane);
    }
    channel.leaving = frame.next;
  }
  write_piece(index);
}

// The lane waits for the next frame of a channel.
void Simulation::wait_for(uint32_t lane, uint32_t index) {
  ChannelState& channel = channels_[index];
  channel.waiting_lane = lane;
  if (channel.head == kNone) return;
  const Frame& frame = frames_[channel.head];
  if (frame.whole) return at(std::max(now_, frame.first_arrives_us), Kind::kReceiveStart, lane);
  write_piece(index);
}

void Simulation::start_receive(uint32_t lane) {
  const CompactLane& steps = program_.lanes()[lane];
  const CompactStep& receive = steps[next_step_[lane]];
  const ChannelState& channel = channels_[receive.channel];
  const Frame& frame = frames_[channel.head];
  const LinkCosts& costs = costs_of(channel);
  const auto rank = static_cast<std::size_t>(steps.rank);
  const double per_byte =
      costs.cpu_us_per_byte + (receive.reduce ? machine_.constants.reduce_us_per_byte : 0);
  const double work =
      (costs.overhead_us + static_cast<double>(frame.size_bytes) * per_byte) * slowness_[rank];
  const double end = serve(steps.rank, now_, work);
  at(std::max(end, frame.last_arrives_us), Kind::kReceiveEnd, lane);
}

void Simulation::end_receive(uint32_t lane) {
  const uint32_t index = program_.lanes()[lane][next_step_[lane]].channel;
  ChannelState& channel = channels_[index];
  const uint32_t done = channel.head;
  channel.waiting_lane = kNone;
  channel.held_bytes -= frames_[done].size_bytes;
  channel.head = frames_[done].next;
  if (channel.head == kNone) channel.tail = kNone;
  frames_[done].next = spare_frames_;
  spare_frames_ = done;
  ++next_step_[lane];
  run_lane(lane);
  write_piece(index);
}

void Simulation::check_ended() const {
  for (std::size_t lane = 0; lane < next_step_.size(); ++lane) {
    const CompactLane& steps = program_.lanes()[lane];
    if (next_step_[lane] == steps.size()) continue;
    const ChannelState& channel = channels_[steps[next_step_[lane]].channel];
    raise(ErrorKind::kInvalidArgument,
          "simulate: rank " + std::to_string(channel.to) + " waits forever for rank " +
              std::to_string(channel.from) + ", at step " + std::to_string(next_step_[lane]));
  }
  for (const ChannelState& channel : channels_) {
    if (channel.head == kNone) continue;
    raise(ErrorKind::kInvalidArgument, "simulate: rank " + std::to_string(channel.to) +
                                           " never receives what rank " +
                                           std::to_string(channel.from) + " sends");
  }
}

Simulated Simulation::result() const {
  Simulated result;
  result.finish_us = finish_us_;
  for (const Server& processor : processors_) result.busy_us.push_back(processor.busy_us);
  std::map<std::pair<int, int>, LinkUse> links;
  for (const ChannelState& channel : channels_) {
    LinkUse& use = links[{channel.from, channel.to}];
    use.from = channel.from;
    use.to = channel.to;
    use.frames += channel.frames;
    use.bytes += channel.bytes;
    use.busy_us += channel.link.busy_us;
  }
  for (const auto& [ends, use] : links) result.links.push_back(use);
  for (std::size_t host = 0; host < nics_out_.size(); ++host) {
    result.hosts.push_back({nics_out_[host].busy_us, nics_in_[host].busy_us});
  }
  return result;
}

}  // namespace

double Simulated::end_us() const {
  return finish_us.empty() ? 0 : *std::ranges::max_element(finish_us);
}

Simulated simulate(int world, const ScheduleOf& schedule_of, const Machine& machine) {
  require_size(machine.host_of.size(), world, "host_of");
  require_size(machine.machine_of.size(), world, "machine_of");
  require_size(machine.rank_slowness.size(), world, "rank_slowness");
  require_size(machine.start_us.size(), world, "start_us");
  Program program;
  for (int rank = 0; rank < world; ++rank) {
    Schedule schedule = schedule_of(rank);
    if (machine.constants.is_gpu) leave_out_set_aside(schedule);
    program.add(rank, schedule);
  }
  return Simulation(world, program, machine).run();
}

Simulated simulate(const PlanRequest& request, const Machine& machine) {
  const auto schedule_of = [&](int rank) {
    PlanRequest own = request;
    own.rank = rank;
    own.host_of = machine.host_of;
    return build(own);
  };
  return simulate(request.world, schedule_of, machine);
}

}  // namespace fastgpu
