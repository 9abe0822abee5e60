// A burst: lanes that are under way, polled by the runner and its helpers at once, each lane by one
// thread at a time, until all have ended, nothing moves, or the engine's other work must have its
// turn. What starts and ends operations stays with the runner, before and after.
//
// Ownership: looks at the runs added, for one burst. Threading: run() by the runner; while it
// lasts, LaneRun::poll runs in parallel, and so does what it calls: the ChannelSource, the channels
// of different lanes, symmetric memory, reduce kernels. Invariant: a lane's share is touched only
// by who holds it.
#pragma once

#include <atomic>
#include <exception>
#include <vector>

#include "engine/crew.h"
#include "engine/lane_run.h"

namespace fastgpu {

class LaneBurst final : public Crew::Task {
 public:
  LaneBurst(ChannelSource& channels, std::size_t most_lanes)
      : channels_(channels), shares_(most_lanes) {}

  void clear() noexcept { size_ = 0; }
  void add(LaneRun& run) noexcept;
  std::size_t size() const noexcept { return size_; }

  // Says whether anything moved. Raises what a lane has raised, of the first one that has.
  bool run(Crew& crew, int helpers);
  // After run(): whether the lane that was added as the index-th is done.
  bool done(std::size_t index) const noexcept { return shares_[index].state == LaneState::kDone; }

  void help(std::size_t seat) noexcept override;

 private:
  struct alignas(64) Share {
    std::atomic<bool> held{false};
    std::atomic<bool> ended{false};
    LaneRun* run = nullptr;
    LaneState state = LaneState::kBlocked;
    std::exception_ptr error;
  };
  enum class Look : uint8_t { kMoved, kNothing, kHeld };

  Look look(Share& share) noexcept;
  void drive() noexcept;
  void give_way() const noexcept;

  ChannelSource& channels_;
  std::vector<Share> shares_;
  std::size_t size_ = 0;
  bool crowded_ = false;  // the crew is: who has nothing to move may stand in the way of who has
  alignas(64) std::atomic<bool> over_{false};
  alignas(64) std::atomic<unsigned> moves_{0};
  std::atomic<std::size_t> left_{0};  // lanes that have not ended
};

}  // namespace fastgpu
