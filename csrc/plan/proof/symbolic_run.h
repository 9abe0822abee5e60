// SymbolicRun: runs the schedules of all ranks on symbolic memory, in one thread and in a poll
// order drawn from a seed. A channel holds `capacity` frames; with capacity 0 a frame leaves when
// its receiver waits for it.
//
// One poll order is enough. Receives are in order and name their peer, and sends never block. So
// neither the values nor a deadlock depend on the order, unless a write races with a pending send.
// Such races are excluded for all orders at once by vector clocks: every lane knows, from the
// frames that it has received, how many steps of each rank are in its past. A write to a region
// that was sent is a failure unless the step that received the frame is in the writer's past.
//
// Ownership: borrows schedules, memories and terms. Threading: one thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "plan/proof/symbolic.h"
#include "plan/schedule.h"

namespace fastgpu {

// The buffers of a rank. In place, input and data are the same memory, and input begins at byte
// `input_in_data` of it.
struct RankMemory {
  std::vector<SymbolicMemory> buffers;  // by Buffer
  bool in_place = false;
  uint64_t input_in_data = 0;

  // The memory of a region: in place, a region of input becomes one of data.
  Region resolve(Region region) const;
};

class SymbolicRun {
 public:
  SymbolicRun(std::span<const Schedule> schedules, std::span<RankMemory> memories, Terms& terms,
              int capacity, uint64_t seed);

  // Runs all lanes to the end. Throws ProofFailure.
  void run();

  // After run(): the length of the longest chain of frames in which each frame was sent after its
  // sender had received the one before.
  int rounds() const { return rounds_; }
  // After run(): whether `rank` ended only after `other` had begun.
  bool heard_of(int rank, int other) const;

 private:
  using VectorClock = std::vector<uint32_t>;  // by rank: how many of its steps are in the past

  struct Frame {
    const Step* step;
    std::size_t posted;  // index in Cursor::posted of the sender
    std::shared_ptr<const VectorClock> clock;
    uint32_t sender_steps;
    int round;
    std::vector<Piece> value;  // set when the frame leaves
  };
  struct Stream {
    std::deque<Frame> frames;    // posted, not received
    std::size_t in_channel = 0;  // the first frames, which have left
  };
  struct Posted {
    Region source;
    int peer;
    uint32_t received_at;  // the number of steps of the receiver after it; 0: not received yet
  };
  // One lane of one rank.
  struct Cursor {
    int rank;
    int lane;
    std::size_t next = 0;  // step
    std::shared_ptr<VectorClock> clock;
    int round = 0;
    std::vector<Posted> posted;
    std::vector<std::size_t> pending;  // in `posted`: not known here to be received
    std::map<int, Stream> streams;     // by receiver
    std::size_t unsent = 0;            // frames of all streams that have not left
    std::size_t unreceived = 0;        // frames of all streams that are not received
  };

  const Lane& lane_of(const Cursor& cursor) const;
  Cursor& cursor_of(int rank, int lane) { return cursors_[index_of(rank, lane)]; }
  std::size_t index_of(int rank, int lane) const;
  bool poll(Cursor& cursor);
  bool send_posted(Cursor& cursor);
  bool take_step(Cursor& cursor);
  void post(Cursor& cursor, const Step& step);
  bool receive(Cursor& cursor, const Step& step);
  void write(Cursor& cursor, const Step& step, const std::vector<Piece>& value);
  void complete(SymbolicMemory& buffer, const Region& target);
  std::vector<Piece> read(int rank, const Region& region) const;
  std::vector<Piece> copied(int rank, const Step& step);
  void check_no_pending(Cursor& cursor, const Region& target);
  bool finished(const Cursor& cursor) const;
  void shuffle(std::vector<std::size_t>& order);
  uint64_t draw();
  [[noreturn]] void report_stop() const;

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
