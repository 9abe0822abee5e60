// The parts of a simulated machine: resources that serve one request at a time, frames, channels
// and events.
//
// Ownership: values of one Simulation. Threading: one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fastgpu::simulated {

inline constexpr uint32_t kNone = UINT32_MAX;

// A serial resource: a processor, a link, or one direction of a network interface.
struct Server {
  double free_us = 0;  // when it has served all requests so far
  double busy_us = 0;

  // Serves for `work_us`, from `now` on or as soon as it is free. Returns when it begins.
  double serve(double now, double work_us) {
    const double start = std::max(now, free_us);
    free_us = start + work_us;
    busy_us += work_us;
    return start;
  }
};

// The cores of a machine that has fewer cores than ranks. Work goes to the core that can begin it
// first.
class Cores {
 public:
  Cores(int count, double switch_us)
      : cores_(static_cast<std::size_t>(count)), switch_us_(switch_us) {}

  // Serves `rank`, whose processor is `processor`. Returns when the work ends.
  double serve(int rank, Server& processor, double now, double work_us) {
    const double ready = std::max(now, processor.free_us);
    const auto begin = [&](const Core& core) {
      const bool switches = core.rank >= 0 && core.rank != rank;
      return std::max(ready, core.free_us) + (switches ? switch_us_ : 0);
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
    int rank = -1;  // served last
  };
  std::vector<Core> cores_;
  double switch_us_;
};

// A frame leaves in pieces, as the channel has room.
struct Frame {
  uint64_t size_bytes = 0;
  uint64_t moved_bytes = 0;
  bool started = false;  // a piece has left
  bool whole = false;    // all pieces have left, so the time of arrival is known
  double first_arrives_us = 0;
  double last_arrives_us = 0;
  uint32_t next = kNone;  // in the channel
};

// A lane between a sender and a receiver. Its frames form a list from `head` to `tail`: posted, not
// received yet. The frames before `leaving` have left completely.
struct ChannelState {
  int from = 0;
  int to = 0;
  bool leaves_host = false;
  bool moving = false;  // a piece is on its way through the sender's processor
  double factor = 1;    // of a SlowLink
  uint32_t head = kNone;
  uint32_t tail = kNone;
  uint32_t leaving = kNone;
  uint32_t waiting_lane = kNone;  // the receiving lane, if it waits for the frame at `head`
  uint64_t held_bytes = 0;        // sent, not received
  uint64_t piece_bytes = 0;       // of the moving piece
  double piece_written_us = 0;    // when the processor has written the moving piece
  uint64_t frames = 0;
  uint64_t bytes = 0;
  Server link;
};

struct Event {
  enum class Kind : uint8_t {
    kRunLane,       // a lane continues
    kReceiveStart,  // a lane begins to receive a frame
    kReceiveEnd,    // a lane has received a frame
    kPieceLeaves,   // the first byte of a piece leaves a channel
  };
  double time_us;
  uint64_t number;   // in order of creation; orders events of equal time
  uint32_t subject;  // a lane; for kPieceLeaves a channel
  Kind kind;

  bool operator>(const Event& other) const {
    return time_us != other.time_us ? time_us > other.time_us : number > other.number;
  }
};

}  // namespace fastgpu::simulated
