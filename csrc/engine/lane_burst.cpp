#include "engine/lane_burst.h"

#include <algorithm>
#include <thread>

#include "base/pause.h"

namespace fastgpu {
namespace {

// A move is one call of a channel, 16 KiB to 1 MiB: then other groups get their turn.
constexpr unsigned kMostMoves = 128;
// Rounds over all lanes in which nothing moved: a few microseconds. While a helper holds a lane it
// is likely to be moving its bytes, so such a round counts little.
constexpr unsigned kMostQuiet = 1024;
constexpr unsigned kQuietRound = 32;
constexpr unsigned kHeldRound = 1;
// A helper that has nothing to move leaves the lanes free for this long, so that the runner sees
// it.
constexpr int kPauses = 8;

}  // namespace

void LaneBurst::add(LaneRun& run) noexcept {
  Share& share = shares_[size_++];
  share.run = &run;
  share.state = LaneState::kBlocked;
  share.error = nullptr;
  share.ended.store(false, std::memory_order_relaxed);
}

bool LaneBurst::run(Crew& crew, int helpers) {
  crowded_ = crew.crowded();
  over_.store(false, std::memory_order_relaxed);
  moves_.store(0, std::memory_order_relaxed);
  left_.store(size_, std::memory_order_relaxed);
  crew.open(*this, std::min(helpers, static_cast<int>(size_) - 1));
  drive();
  over_.store(true, std::memory_order_relaxed);
  crew.close();
  for (std::size_t i = 0; i < size_; ++i) {
    if (shares_[i].error) std::rethrow_exception(shares_[i].error);
  }
  return moves_.load(std::memory_order_relaxed) > 0;
}

// The runner's part: helps, and sees when it is over.
void LaneBurst::drive() noexcept {
  std::size_t at = 0;
  unsigned seen = 0;
  unsigned quiet = 0;
  bool held = false;
  while (left_.load(std::memory_order_relaxed) > 0 && quiet < kMostQuiet) {
    const Look found = look(shares_[at]);
    held |= found == Look::kHeld;
    if (found != Look::kMoved && ++at < size_) continue;
    at %= size_;
    const unsigned moves = moves_.load(std::memory_order_relaxed);
    if (moves >= kMostMoves || over_.load(std::memory_order_relaxed)) return;
    quiet = moves != seen ? 0 : quiet + (held ? kHeldRound : kQuietRound);
    seen = moves;
    held = false;
    if (quiet > 0) give_way();
  }
}

void LaneBurst::give_way() const noexcept {
  if (crowded_) {
    std::this_thread::yield();
  } else {
    pause();
  }
}

// Stays on a lane while it moves, so that a lane's words stay in one core's cache.
void LaneBurst::help(std::size_t seat) noexcept {
  std::size_t at = seat % size_;
  while (!over_.load(std::memory_order_relaxed) && left_.load(std::memory_order_relaxed) > 0) {
    if (look(shares_[at]) == Look::kMoved) continue;
    at = (at + 1) % size_;
    if (at == seat % size_) {
      for (int i = 0; i < kPauses; ++i) give_way();
    }
  }
}

LaneBurst::Look LaneBurst::look(Share& share) noexcept {
  if (share.ended.load(std::memory_order_relaxed)) return Look::kNothing;
  if (share.held.exchange(true, std::memory_order_acquire)) return Look::kHeld;
  Look found = Look::kNothing;
  if (!share.ended.load(std::memory_order_relaxed)) {
    try {
      share.state = share.run->poll(channels_);
    } catch (...) {
      share.error = std::current_exception();
      over_.store(true, std::memory_order_relaxed);
    }
    if (share.state == LaneState::kDone || share.error) {
      share.ended.store(true, std::memory_order_relaxed);
      left_.fetch_sub(1, std::memory_order_relaxed);
    }
    if (share.state != LaneState::kBlocked) {
      moves_.fetch_add(1, std::memory_order_relaxed);
      found = Look::kMoved;
    }
  }
  share.held.store(false, std::memory_order_release);
  return found;
}

}  // namespace fastgpu
