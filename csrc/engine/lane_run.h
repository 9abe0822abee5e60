// Runs one lane of one operation: walks over the steps of the lane's schedule, receives in order,
// and posts sends, which leave when their channels have room.
//
// Invariants:
//  1. Receives and copies run in the order of the schedule. None of them overwrites a region
//     whose send has not left.
//  2. Sends to one peer leave in the order in which they were posted.
//
// Ownership: the operation and its schedule outlive the run. The object is used again for the next
// operation of the lane, so that a step allocates no memory.
// Threading: the polling thread.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "engine/operation.h"
#include "transport/channel.h"

namespace fastgpu {

enum class Presence : uint8_t {
  kHere,
  kLeft,  // in order
  kLost,
};

// The channels of a communicator.
// Threading: the polling thread.
class ChannelSource {
 public:
  virtual ~ChannelSource() = default;
  // The channel of a lane to or from a peer; nullptr: not connected yet. The first call opens it.
  virtual SendChannel* sender(int peer, int lane) = 0;
  virtual RecvChannel* receiver(int peer, int lane) = 0;
  // Whether `peer`, one of whose channels is closed, is known to be gone. Until it is, its message
  // with the reason may still arrive, so the caller waits for that. The first call begins the time
  // after which a peer without a reason counts as gone, so call it only after Io::kClosed.
  virtual bool departed(int peer) = 0;
  // Whether the peer is known to be gone, whatever its channels are. Begins nothing.
  virtual Presence presence(int) const { return Presence::kHere; }
  // Changes when there are new receivers, or a peer has departed.
  virtual uint64_t version() const = 0;
};

enum class LaneState : uint8_t { kMoved, kBlocked, kDone };

class LaneRun {
 public:
  void start(Operation& operation, int lane);
  bool idle() const noexcept { return operation_ == nullptr; }
  void clear() noexcept;

  // Moves as much as it can. Raises PeerLostError when a channel that it needs has closed, and
  // CollectiveMismatchError when a frame of another call arrives.
  LaneState poll(ChannelSource& channels);

  // The peer whose frame the run waits for, else a peer that a send waits for; kNoRank: none.
  int waiting_for() const noexcept;
  // Whether the peer has begun the operation: a frame of it has arrived from there.
  bool has_heard_from(int peer) const noexcept;

 private:
  struct Posted {
    int peer;
    Region region;
    Outgoing frame;
  };

  FrameHeader header_of(const Step& step, uint64_t size_bytes) const;
  void post(const Step& step, ChannelSource& channels);
  Io send(SendChannel* channel, int peer, Outgoing& frame) const;
  bool flush(ChannelSource& channels);
  bool receive(const Step& step, ChannelSource& channels, bool* moved);
  Sink sink_of(const Step& step) const;
  uint32_t sent_back_by_next(const Step& step) const;
  void copy(const Step& step) const;
  void enqueue(const Step& step) const;
  void code(const Step& step) const;
  void enqueue_code(const Step& step) const;
  void encode(const Step& step) const;
  void decode(const Step& step) const;
  void add_residual(const Step& step) const;
  bool is_posted(const Region& target) const;
  void check(const Step& step, const FrameHeader& header) const;
  std::string describe_own() const;

  Operation* operation_ = nullptr;
  const Lane* steps_ = nullptr;
  int lane_ = 0;
  std::size_t next_ = 0;
  bool receiving_ = false;  // the header of the frame for steps_[next_] has arrived and matches
  Incoming incoming_;
  std::vector<Posted> posted_;  // in the order posted; done sends are erased
  std::vector<int> full_;       // peers with a full channel, in flush()
};

}  // namespace fastgpu
