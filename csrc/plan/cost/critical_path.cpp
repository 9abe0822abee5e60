#include "plan/cost/critical_path.h"

#include <algorithm>

namespace fastgpu {
namespace {

class CriticalPath {
 public:
  CriticalPath(const Profile& profile, const Constants& constants, double bytes)
      : profile_(profile),
        constants_(constants),
        bytes_(bytes),
        ranks_(profile.ranks.size()),
        lanes_(profile.lanes),
        links_(profile.links),
        frames_(profile.frames) {
    if (!profile.complete) mean_alpha_us_ = mean_alpha_us();
  }

  double run() {
    for (const ProfiledStep& step : profile_.steps) {
      switch (step.kind) {
        case ProfiledStep::Kind::kSend:
          send(step);
          break;
        case ProfiledStep::Kind::kReceive:
          receive(step);
          break;
        case ProfiledStep::Kind::kLocal:
          copy(step);
          break;
      }
    }
    return std::max(last_end(), interfaces_end());
  }

 private:
  struct Rank {
    double processor = 0;  // free from then on
    double interface_out = 0;
    double end = 0;
  };
  struct Frame {
    double first_left = 0;
    double last_left = 0;
  };

  // The processor works for `work_us`, from `ready` on or as soon as it is free.
  double serve(const ProfiledStep& step, double ready, double work_us) {
    Rank& rank = ranks_[step.rank];
    rank.processor = std::max(rank.processor, ready) + work_us;
    return rank.processor;
  }
  void end_step(const ProfiledStep& step, double end) {
    lanes_[step.lane] = end;
    ranks_[step.rank].end = std::max(ranks_[step.rank].end, end);
  }

  void send(const ProfiledStep& step);
  void receive(const ProfiledStep& step);
  void copy(const ProfiledStep& step) {
    const double per_byte =
        constants_.copy_us_per_byte + (step.reduce ? constants_.reduce_us_per_byte : 0);
    end_step(step, serve(step, lanes_[step.lane], bytes_ * step.bytes * per_byte));
  }

  double mean_alpha_us() const;
  double last_end() const {
    double last = 0;
    for (const Rank& rank : ranks_) last = std::max(last, rank.end);
    return last;
  }
  // Receives run in the order of the schedule, not of arrival, so they cannot queue for the host's
  // interface. This bound stands in for that queue.
  double interfaces_end() const {
    double most = 0;
    for (const RankWork& work : profile_.ranks) {
      most = std::max(most, interface_us(work, constants_, bytes_));
    }
    const LinkCosts& costs = constants_.between_hosts;
    return most > 0 ? most + costs.alpha_us + costs.overhead_us : 0;
  }

  const Profile& profile_;
  const Constants& constants_;
  const double bytes_;
  // In a sampled world a rank of the sample stands for others, some of which talk to other hosts.
  double mean_alpha_us_ = 0;
  std::vector<Rank> ranks_;
  std::vector<double> lanes_;  // may go on from then on
  std::vector<double> links_;  // free from then on
  std::vector<Frame> frames_;
};

double CriticalPath::mean_alpha_us() const {
  double alpha = 0;
  double frames = 0;
  for (std::size_t i = 0; i < profile_.ranks.size(); ++i) {
    const RankWork& work = profile_.ranks[i];
    for (const bool between : {false, true}) {
      const Traffic& traffic = between ? work.between_hosts : work.same_host;
      const double weight = profile_.weights[i] * traffic.frames_received;
      alpha += weight * constants_.link(between).alpha_us;
      frames += weight;
    }
  }
  return frames > 0 ? alpha / frames : 0;
}

void CriticalPath::send(const ProfiledStep& step) {
  const LinkCosts& costs = constants_.link(step.between_hosts);
  const double size = bytes_ * step.bytes;
  const double cpu = step.in_place ? 0 : size * costs.cpu_us_per_byte;
  const double wire = step.in_place ? 0 : size * costs.beta_us_per_byte;
  const double written = serve(step, lanes_[step.lane], costs.overhead_us + cpu);
  double start = std::max(written - cpu, links_[step.link]);
  double nic = 0;
  if (step.between_hosts) {
    double& interface = ranks_[step.rank].interface_out;
    start = std::max(start, interface);
    nic = size * constants_.nic_us_per_byte * profile_.ranks[step.rank].interface_sharing_out;
    interface = start + nic;
  }
  links_[step.link] = start + wire;
  Frame& frame = frames_[step.frame];
  frame = {start, std::max({start + wire, start + nic, written})};
  lanes_[step.lane] = written;
  ranks_[step.rank].end = std::max(ranks_[step.rank].end, frame.last_left);
}

void CriticalPath::receive(const ProfiledStep& step) {
  const LinkCosts& costs = constants_.link(step.between_hosts);
  const double size = bytes_ * step.bytes;
  const Frame frame = step.frame == kNoFrame ? Frame{} : frames_[step.frame];
  const double alpha = profile_.complete ? costs.alpha_us : mean_alpha_us_;
  const double first = frame.first_left + alpha;
  const double last = frame.last_left + alpha;
  const double per_byte = costs.cpu_us_per_byte + (step.reduce ? constants_.reduce_us_per_byte : 0);
  const double taken =
      serve(step, std::max(lanes_[step.lane], first), costs.overhead_us + size * per_byte);
  end_step(step, std::max(taken, last));
}

}  // namespace

double critical_path_us(const Profile& profile, const Constants& constants, double bytes) {
  return CriticalPath(profile, constants, bytes).run();
}

double processor_us(const RankWork& work, const Constants& constants, double bytes) {
  const auto moving = [&](const Traffic& traffic, const LinkCosts& costs, double in_place) {
    return (traffic.frames_sent + traffic.frames_received) * costs.overhead_us +
           bytes * (traffic.bytes_sent + traffic.bytes_received - in_place) * costs.cpu_us_per_byte;
  };
  return moving(work.same_host, constants.same_host, work.bytes_read_in_place) +
         moving(work.between_hosts, constants.between_hosts, 0) +
         bytes * (work.bytes_reduced * constants.reduce_us_per_byte +
                  work.bytes_copied * constants.copy_us_per_byte);
}

double interface_us(const RankWork& work, const Constants& constants, double bytes) {
  const Traffic& traffic = work.between_hosts;
  return bytes * constants.nic_us_per_byte *
         std::max(traffic.bytes_sent * work.interface_sharing_out,
                  traffic.bytes_received * work.interface_sharing_in);
}

double busiest_us(const Profile& profile, const Constants& constants, double bytes) {
  double most = 0;
  for (const bool between : {false, true}) {
    most = std::max(
        most, bytes * profile.busiest_link[between] * constants.link(between).beta_us_per_byte);
  }
  for (const RankWork& work : profile.ranks) {
    most = std::max(
        {most, processor_us(work, constants, bytes), interface_us(work, constants, bytes)});
  }
  return most;
}

double total_work_us(const Profile& profile, const Constants& constants, double bytes) {
  double total = 0;
  for (std::size_t i = 0; i < profile.ranks.size(); ++i) {
    total += profile.weights[i] * processor_us(profile.ranks[i], constants, bytes);
  }
  return total;
}

}  // namespace fastgpu
