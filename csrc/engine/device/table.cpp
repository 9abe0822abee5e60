#include "engine/device/table.h"

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "engine/device/fold.h"

namespace fastgpu::device {
namespace {

// Finds the frame that a receive takes, in the sender's memory.
using FindFrame = std::function<FoldSource(const Step&)>;

[[noreturn]] void refuse(const std::string& why) { raise(ErrorKind::kInvalidArgument, why); }

uint64_t place_of(const Region& region) {
  return (static_cast<uint64_t>(region.buffer) << Place::kBufferShift) | region.offset_bytes;
}

std::vector<FoldStep> translate(const Lane& lane, const FindFrame& find_frame) {
  std::vector<FoldStep> steps;
  for (const Step& step : lane) {
    if (step.coding != Coding::kPlain) {
      refuse("encoded schedules do not run as lanes of a kernel");
    }
    FoldStep out;
    if (step.verb == Verb::kSend) {
      out.region = step.source;
      out.peer = step.peer;
      out.frame = step.ordinal + 1;
    } else {
      out.region = step.target;
      out.completes = step.completes;
      if (step.reduce) out.sources.push_back({.region = step.target});
      out.sources.push_back(step.verb == Verb::kRecv ? find_frame(step)
                                                     : FoldSource{.region = step.source});
      const bool idle = step.verb == Verb::kCopy && !step.reduce && step.source == step.target;
      if (idle) continue;
    }
    if (out.frame >> kFrameBits != 0) {
      refuse("a lane of a kernel has at most " + std::to_string((1 << kFrameBits) - 1) +
             " frames to a peer");
    }
    steps.push_back(std::move(out));
  }
  return steps;
}

// Writes the entries of one lane.
class LaneWriter {
 public:
  explicit LaneWriter(std::vector<Entry>& entries) : entries_(entries) {}

  void write(const std::vector<FoldStep>& steps) {
    for (std::size_t i = 0; i < steps.size(); ++i) {
      for (const FoldSource& source : steps[i].sources) {
        if (!source.is_local()) last_received_[source.peer] = i;
      }
    }
    for (std::size_t i = 0; i < steps.size(); ++i) {
      steps[i].is_send() ? write_post(steps[i]) : write_combine(steps[i], i);
    }
    for (const auto& [peer, frame] : posted_) {
      append({.frame = frame, .peer = static_cast<uint8_t>(peer), .kind = EntryKind::kAwait});
    }
  }

 private:
  // A post of a frame tells of all earlier ones, so a batch has at most one for each peer.
  void write_post(const FoldStep& step) {
    const bool opens = !posted_.contains(step.peer);
    posted_[step.peer] = step.frame;
    if (batch_ < entries_.size() && entries_[batch_].kind == EntryKind::kPost) {
      for (std::size_t i = batch_; i < entries_.size(); ++i) {
        if (entries_[i].peer != step.peer) continue;
        entries_[i].frame = step.frame;
        return;
      }
    }
    append({.place = place_of(step.region),
            .frame = step.frame,
            .peer = static_cast<uint8_t>(step.peer),
            .kind = EntryKind::kPost,
            .opens = opens});
  }

  void write_combine(const FoldStep& step, std::size_t number) {
    batch_ = entries_.size() + 1 + step.sources.size();
    entries_.push_back({.place = place_of(step.region),
                        .size_bytes = step.region.size_bytes,
                        .kind = EntryKind::kCombine,
                        .count = static_cast<uint8_t>(step.sources.size()),
                        .completes = step.completes});
    for (const FoldSource& source : step.sources) {
      entries_.push_back(
          {.place = place_of(source.region) | (source.relative ? Place::kRelative : 0),
           .frame = source.frame,
           .peer = static_cast<uint8_t>(std::max(source.peer, 0)),
           .kind = EntryKind::kSource});
    }
    // A batch of `taken` entries, one for each peer whose last frame the step reads.
    std::map<int, uint32_t> taken;
    for (const FoldSource& source : step.sources) {
      if (!source.is_local() && last_received_.at(source.peer) == number) {
        taken[source.peer] = std::max(taken[source.peer], source.frame);
      }
    }
    for (const auto& [peer, frame] : taken) {
      append({.frame = frame, .peer = static_cast<uint8_t>(peer), .kind = EntryKind::kTaken});
    }
  }

  // Adds to the batch at the end, or begins one.
  void append(const Entry& entry) {
    if (batch_ < entries_.size() && entries_[batch_].kind == entry.kind &&
        entries_.size() - batch_ < kMaxBatch) {
      ++entries_[batch_].count;
    } else {
      batch_ = entries_.size();
    }
    entries_.push_back(entry);
  }

  std::vector<Entry>& entries_;
  std::size_t batch_ = SIZE_MAX;              // where the batch at the end begins
  std::map<int, uint32_t> posted_;            // by peer: the latest frame
  std::map<int, std::size_t> last_received_;  // by peer: number of the step
};

void check_world(std::size_t world) {
  if (world > kMaxRanks) {
    refuse("lanes of a kernel take at most " + std::to_string(kMaxRanks) + " ranks, not " +
           std::to_string(world));
  }
}

}  // namespace

Table compile(std::span<const Schedule> schedules, int rank, const CompileOptions& options) {
  check_world(schedules.size());
  const Schedule& mine = schedules[static_cast<std::size_t>(rank)];
  Table table;
  table.first.push_back(0);
  for (std::size_t lane = 0; lane < mine.lanes.size(); ++lane) {
    std::map<std::pair<int, uint32_t>, Region> frames;  // to me, by sender and ordinal
    for (std::size_t peer = 0; peer < schedules.size(); ++peer) {
      for (const Step& step : schedules[peer].lanes[lane]) {
        if (step.verb != Verb::kSend || step.peer != rank) continue;
        frames[{static_cast<int>(peer), step.ordinal}] = step.source;
      }
    }
    std::vector<FoldStep> steps = translate(mine.lanes[lane], [&](const Step& step) {
      return FoldSource{.region = frames.at({step.peer, step.ordinal}),
                        .peer = step.peer,
                        .frame = step.ordinal + 1};
    });
    if (options.fold) fold(steps);
    LaneWriter(table.entries).write(steps);
    table.first.push_back(static_cast<uint32_t>(table.entries.size()));
  }
  return table;
}

Table compile_all_to_all(const Schedule& schedule, int world) {
  check_world(static_cast<std::size_t>(world));
  Table table;
  table.first.push_back(0);
  for (const Lane& lane : schedule.lanes) {
    std::map<int, uint64_t> received;  // bytes, by sender
    const std::vector<FoldStep> steps = translate(lane, [&](const Step& step) {
      uint64_t& offset_bytes = received[step.peer];
      const Region region{Buffer::kInput, offset_bytes, step.target.size_bytes};
      offset_bytes += step.target.size_bytes;
      return FoldSource{
          .region = region, .relative = true, .peer = step.peer, .frame = step.ordinal + 1};
    });
    LaneWriter(table.entries).write(steps);
    table.first.push_back(static_cast<uint32_t>(table.entries.size()));
  }
  return table;
}

}  // namespace fastgpu::device
