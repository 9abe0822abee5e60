// Runs the schedules of all ranks on symbolic memory, in one thread and a seeded poll order, over
// channels that hold `capacity` frames (0: a frame leaves when the peer stands at its receive).
//
// Receives are in order and name their peer, so what is computed and whether it ends do not depend
// on the poll order, as long as no write races with a pending send. That last thing is proven for
// all orders at once: every lane keeps a vector clock, and a write over a region that was sent is
// refuted unless the taking of that frame is known, through frames, to lie in its past.
// Ownership: the schedules stay the caller's. Threading: one thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "plan/proof/symbolic.h"
#include "plan/schedule.h"

namespace fastgpu {

// The three buffers of a rank. In place, input and data are one memory and the input begins at
// byte `input_in_data` of it.
struct RankMemory {
  std::vector<Memory> buffers;  // by Buffer
  bool in_place = false;
  uint64_t input_in_data = 0;

  Region resolve(Region region) const;
};

class SymbolicRun {
 public:
  SymbolicRun(std::span<const Schedule> schedules, std::span<RankMemory> memories, Terms& terms,
              int capacity, uint64_t seed);

  // To the end, or ProofFailure.
  void run();

  // The longest chain of frames, each of which left after the one before it had arrived.
  int rounds() const { return rounds_; }
  // Whether `rank` ended only after `other` had begun.
  bool heard_of(int rank, int other) const;

 private:
  using Clock = std::vector<uint32_t>;  // by rank: so many of its steps lie in my past

  struct Frame {
    const Step* step;
    std::size_t posted;  // index among the sender's
    std::shared_ptr<const Clock> clock;
    uint32_t sender_steps;
    int round;
    std::vector<Piece> value;  // once it has left
  };
  struct Stream {
    std::deque<Frame> frames;  // the first `left` of them are in the channel
    std::size_t left = 0;
  };
  struct Posted {
    Region source;
    int peer;
    uint32_t taken_at;  // the receiver's step count once it took the frame; 0: not yet
  };
  struct Cursor {
    int rank;
    int lane;
    std::size_t next = 0;
    std::shared_ptr<Clock> clock;
    int round = 0;
    std::vector<Posted> posted;
    std::vector<std::size_t> open;  // of posted: not known to be taken
    std::map<int, Stream> streams;  // by receiver
    std::size_t to_leave = 0;       // frames of all streams that are not in a channel yet
    std::size_t to_arrive = 0;      // and those that nobody has taken
  };

  const Lane& lane_of(const Cursor& cursor) const;
  Cursor& cursor_of(int rank, int lane) { return cursors_[index_of(rank, lane)]; }
  std::size_t index_of(int rank, int lane) const;
  bool poll(Cursor& cursor);
  bool let_leave(Cursor& cursor);
  bool take_step(Cursor& cursor);
  void post(Cursor& cursor, const Step& step);
  bool receive(Cursor& cursor, const Step& step);
  void write(Cursor& cursor, const Step& step, const std::vector<Piece>& value);
  std::vector<Piece> read(int rank, const Region& region) const;
  void check_no_pending(Cursor& cursor, const Region& target);
  bool finished(const Cursor& cursor) const;
  void shuffle(std::vector<std::size_t>& slots);
  uint64_t draw();
  [[noreturn]] void explain_stop() const;

  std::span<const Schedule> schedules_;
  std::span<RankMemory> memories_;
  Terms& terms_;
  std::size_t capacity_;
  uint64_t random_;
  int lanes_;
  int rounds_ = 0;
  std::vector<Cursor> cursors_;
};

}  // namespace fastgpu
