// Opens channels over streams: connects to the peer, says which lane the connection is for, and
// makes the sender of that lane.
//
// Ownership: owns connections until they become channels. Threading: the event loop's thread.
// Invariant: a stream is counted as opened (Registry::count_opened) when its kStream message is
// queued. A communicator that is detached before that opens no stream any more.
#pragma once

#include <cstdint>
#include <map>

#include "control/dialler.h"
#include "control/event_loop.h"
#include "control/link.h"
#include "control/registry.h"
#include "transport/wait/poller.h"

namespace fastgpu {

class StreamOpener {
 public:
  StreamOpener(EventLoop& loop, Dialler& dialler, Registry& registry, Poller& engine)
      : loop_(loop), dialler_(dialler), registry_(registry), engine_(engine) {}

  // The registry gets the channel, or the peer is lost.
  void open(const PairKey& pair, int lane);

 private:
  struct Opening {
    PairKey pair;
    int lane = 0;
    Link link;
    EventLoop::Watch watch;  // after link: destroyed before it
  };

  void announce(const PairKey& pair, int lane, UniqueFd socket);
  void finish_when_sent(uint64_t id);

  EventLoop& loop_;
  Dialler& dialler_;
  Registry& registry_;
  Poller& engine_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Opening> openings_;
};

}  // namespace fastgpu
