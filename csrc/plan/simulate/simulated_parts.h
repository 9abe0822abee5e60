// What a simulated machine is made of: things that serve one at a time, frames on their way,
// channels, and the events between them.
// Ownership: values inside one Simulation. Thread safety: none needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fastgpu::simulated {

inline constexpr uint32_t kNone = UINT32_MAX;

// What something serial (a processor, a link, an interface) does: the time until which it is taken.
struct Server {
  double free_us = 0;
  double busy_us = 0;

  // Serves for `work_us` from `now` on, or as soon as it is free: when it begins.
  double serve(double now, double work_us) {
    const double start = std::max(now, free_us);
    free_us = start + work_us;
    busy_us += work_us;
    return start;
  }
};

// Of a machine whose ranks outnumber its cores: work goes to the core that can begin it first.
class Cores {
 public:
  Cores(int count, double switch_us)
      : cores_(static_cast<std::size_t>(count)), switch_us_(switch_us) {}

  // Serves `rank`, whose processor this is: when the work ends.
  double serve(int rank, Server& processor, double now, double work_us) {
    const double ready = std::max(now, processor.free_us);
    const auto begin = [&](const Core& core) {
      const bool changes = core.rank >= 0 && core.rank != rank;
      return std::max(ready, core.free_us) + (changes ? switch_us_ : 0);
    };
    Core& core = *std::min_element(cores_.begin(), cores_.end(), [&](const Core& a, const Core& b) {
      return begin(a) < begin(b);
    });
    const double end = processor.serve(begin(core), work_us) + work_us;
    core = {.free_us = end, .rank = rank};
    return end;
  }

 private:
  struct Core {
    double free_us = 0;
    int rank = -1;
  };
  std::vector<Core> cores_;
  double switch_us_;
};

struct Frame {
  uint64_t size_bytes = 0;
  uint64_t moved_bytes = 0;
  bool started = false;
  bool whole = false;  // all of it has left, so that its arrival is known
  double first_arrives_us = 0;
  double last_arrives_us = 0;
  uint32_t next = kNone;
};

// One lane from one rank to another. Frames in `head`..: posted, not yet taken by the receiver;
// those before `leaving` have left whole.
struct ChannelState {
  int from = 0;
  int to = 0;
  bool leaves_host = false;
  bool moving = false;  // a piece waits for the sender's processor
  double factor = 1;
  uint32_t head = kNone;
  uint32_t tail = kNone;
  uint32_t leaving = kNone;
  uint32_t waiting_lane = kNone;  // the receiver stands at the frame in `head`
  uint64_t held_bytes = 0;
  uint64_t piece_bytes = 0;  // the piece in motion, and when the processor has written it
  double piece_written_us = 0;
  uint64_t frames = 0;
  uint64_t bytes = 0;
  Server link;
};

struct Event {
  enum class Kind : uint8_t { kStep, kTake, kTaken, kLeave };
  double time_us;
  uint64_t number;   // order of making, so that equal times have one order
  uint32_t subject;  // a lane, or for kLeave a channel
  Kind kind;

  bool operator>(const Event& other) const {
    return time_us != other.time_us ? time_us > other.time_us : number > other.number;
  }
};

}  // namespace fastgpu::simulated
