// LaneBuilder: builders call it to write down the steps of one lane.
//
// It numbers the frames of every peer. Empty regions produce no step. A region longer than
// kMaxFrameBytes becomes several steps, cut alike by sender and receiver.
//
// Ownership: owns the lane until finish() returns it. Threading: one thread.
#pragma once

#include <cstdint>
#include <map>

#include "plan/schedule.h"

namespace fastgpu {

class LaneBuilder {
 public:
  void send(int peer, const Region& source);
  void recv(int peer, const Region& target);                     // target = received
  void recv_reduce(int peer, const Region& target);              // target = target op received
  void copy(const Region& source, const Region& target);         // target = source
  void copy_reduce(const Region& source, const Region& target);  // target = target op source
  // Between elements and an encoded region.
  void encode(const Region& source, const Region& target);
  void decode(const Region& source, const Region& target);         // target = decoded
  void decode_reduce(const Region& source, const Region& target);  // target = target op decoded
  void add_residual(const Region& elements);
  // Sets Step::completes of the last reduction so far. For lanes with encodings.
  void mark_complete();
  // A frame without payload: a signal that this rank has arrived, or an acknowledgement.
  void send_empty(int peer);
  void recv_empty(int peer);

  // Completes the lane and returns it:
  //   - Sets Step::reply and Step::last_use, and Step::completes in a lane without encodings.
  //   - Adds the handshake, so that both ranks of every pair that exchanges frames detect a
  //     mismatched call. A peer that only sends to this rank gets an empty frame in the first step.
  //     A peer that only receives from this rank sends an empty frame, received in the last step.
  Lane finish();

 private:
  void append(Verb verb, bool reduce, int peer, const Region& source, const Region& target);
  void find_replies();
  void find_last_uses();
  void find_completions();

  Lane lane_;
  std::map<int, uint32_t> sent_;      // frames by peer
  std::map<int, uint32_t> received_;  // frames by peer
};

}  // namespace fastgpu
