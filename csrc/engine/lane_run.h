// One lane of one operation, under way: a cursor on its steps and the sends that are posted.
// Threading: the progress thread's. Reused for the next operation, so that a step allocates
// nothing.
#pragma once

#include <vector>

#include "base/error.h"
#include "engine/operation.h"
#include "transport/channel.h"

namespace fastgpu {

enum class Presence : uint8_t { kHere, kLeft, kLost };  // kLeft: in order

// Where the channels come from. nullptr: not connected yet; asking is what makes it connect.
// Threading: the progress thread's.
class ChannelSource {
 public:
  virtual ~ChannelSource() = default;
  virtual SendChannel* sender(int peer, int lane) = 0;
  virtual RecvChannel* receiver(int peer, int lane) = 0;
  // A channel to or from `peer` is closed: whether the peer is known to be gone. Until it is, a
  // word from it about why may still be on its way, and is worth waiting for.
  virtual bool departed(int peer) = 0;
  // What is known of the peer now.
  virtual Presence presence(int) const { return Presence::kHere; }
  // Changes when there are new receivers, or a peer has departed.
  virtual uint64_t version() const = 0;
};

enum class LaneState : uint8_t { kMoved, kBlocked, kDone };

class LaneRun {
 public:
  void start(const Operation& operation, int lane);
  bool idle() const noexcept { return operation_ == nullptr; }
  void clear() noexcept;

  // Moves what can move. Raises PeerLostError when a channel it needs has closed, and
  // CollectiveMismatchError when a frame of another call arrives.
  LaneState poll(ChannelSource& channels);

  // The peer whose frame it waits for, else one that a send waits for; kNoRank if none.
  int waiting_for() const noexcept;

 private:
  struct Posted {
    int peer;
    Region region;
    Outgoing frame;
  };

  struct Place {
    int peer;
    uint32_t ordinal;
    uint64_t size_bytes;
    std::byte* memory;
    bool written;  // the answer is there: only the word is missing
  };

  // A frame that a channel has staged, until its answer is there.
  struct Staged {
    int peer;
    uint32_t ordinal;  // of the answer
    std::byte* memory;
  };

  FrameHeader header_of(const Step& step, uint64_t size_bytes) const;
  void post(const Step& step, ChannelSource& channels);
  Io send(SendChannel* channel, int peer, Outgoing& frame) const;
  bool flush(ChannelSource& channels);
  bool receive(const Step& step, ChannelSource& channels, bool* moved);
  Sink sink_of(const Step& step) const;
  uint32_t answered_by_next(const Step& step) const;
  void find_place(const Step& step, Outgoing& frame);
  void find_staged(const Step& step);
  void reclaim(const Step& step, ChannelSource& channels);
  void note(int peer, const Outgoing& frame);
  void copy(const Step& step) const;
  bool is_posted(const Region& target) const;
  void check(const Step& step, const FrameHeader& header) const;

  const Operation* operation_ = nullptr;
  const Lane* steps_ = nullptr;
  int lane_ = 0;
  std::size_t next_ = 0;
  bool receiving_ = false;  // the header of steps_[next_] was seen and fits
  Incoming incoming_;
  std::vector<Posted> posted_;  // in the order posted; done ones are erased
  std::vector<Place> places_;   // where peers have asked for answers that I have yet to send
  std::vector<Staged> staged_;
  std::vector<int> full_;  // peers whose channel took no more in this flush
};

}  // namespace fastgpu
