// The profile of an algorithm counts the frames, bytes, reductions, copies and rounds of its
// schedules. The cost model prices profiles, so a new algorithm needs a builder and no formula.
//
// A profile is taken of a small call and holds for calls of every size: the steps stay the same,
// and bytes are given as shares of the call's bytes. A pipeline repeats the same steps for each
// chunk; the profile holds them once.
//
// If all ranks together take few steps, all of them are profiled. If not, building their schedules
// would take seconds (a ring of 4096 ranks has 67 million steps), so only a few ranks are profiled.
// A peer outside this sample is assumed to do at each moment what the rank itself does.
//
// Ownership and threading: plain values, pure functions, any thread.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <vector>

#include "base/call.h"
#include "base/codec.h"
#include "plan/cost/placement.h"

namespace fastgpu {

struct ProfileRequest {
  Collective collective = Collective::kAllReduce;
  Algorithm algorithm = Algorithm::kRing;
  int shots = 0;  // as in PlanRequest
  int lanes = 1;
  Codec codec = Codec::kNone;
  bool merges_sums = false;  // without the copies that merged sums do not make
  Placement placement;

  auto operator<=>(const ProfileRequest&) const = default;
};

// Frames include the empty ones. Bytes are shares of the call's bytes, here and below.
struct Traffic {
  double frames_sent = 0;
  double frames_received = 0;
  double bytes_sent = 0;
  double bytes_received = 0;
};

// What a rank encodes, decodes, and decodes and adds: the elements' bytes, not their encoding's.
struct CodecWork {
  double encoded = 0;
  double decoded = 0;
  double added = 0;

  double all() const { return encoded + decoded + added; }
};

// The work of one rank, over all its lanes.
struct RankWork {
  Traffic same_host;
  Traffic between_hosts;
  double payloads_received = 0;    // frames that are not empty
  double bytes_read_in_place = 0;  // sent from shared scratch: the sender's processor moves nothing
  double bytes_reduced = 0;
  double bytes_copied = 0;  // by copy steps that neither encode nor decode
  CodecWork codec;
  // Bytes that all ranks of the host exchange with other hosts, divided by this rank's: sent, and
  // received.
  double interface_sharing_out = 1;
  double interface_sharing_in = 1;

  Traffic& traffic(bool between) { return between ? between_hosts : same_host; }
};

inline constexpr uint32_t kNoFrame = UINT32_MAX;

struct ProfiledStep {
  enum class Kind : uint8_t { kSend, kReceive, kLocal };
  Kind kind = Kind::kLocal;
  bool reduce = false;
  bool between_hosts = false;
  bool in_place = false;      // a send from shared scratch
  uint32_t rank = 0;          // index into Profile::ranks
  uint32_t lane = 0;          // numbered over all profiled ranks
  uint32_t link = 0;          // of a send
  uint32_t frame = kNoFrame;  // of a send, and of the receive that takes it
  double bytes = 0;
};

struct Profile {
  std::vector<ProfiledStep> steps;  // every frame is sent before it is received
  uint32_t lanes = 0;
  uint32_t links = 0;
  uint32_t frames = 0;

  std::vector<RankWork> ranks;  // the profiled ones
  std::vector<double> weights;  // how many ranks of the world each of them stands for
  bool complete = true;         // all ranks are profiled
  bool pipelined = false;       // a call is cut into chunks, each of which takes these steps

  int rounds = 0;  // frames in the longest chain where every frame waits for the previous frame
  std::array<double, 2> busiest_link{};  // in bytes; inside a host, and between hosts
};

Profile profile_of(const ProfileRequest& request);

}  // namespace fastgpu
