// A schedule: the steps one rank takes for one collective, by lane. Data before action: builders
// write it, verify proves it, cost prices it, simulate plays it, the engine runs it.
//
// Within a lane, receives and codec steps run in order; sends are posted and leave in order per
// peer. A lane ends when its sends have left. No step writes a region with a send pending.
// Lanes share nothing: regions of different lanes do not overlap where one of them is written.
// Ownership: immutable once built, shared by pointer. Thread safety: const, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/call.h"

namespace fastgpu {

enum class Buffer : uint8_t {
  kInput,    // what the caller gave; never written
  kData,     // what the caller gets; for all_reduce and broadcast also what it gave
  kScratch,  // scratch of the operation, Schedule::scratch_bytes long
};

struct Region {
  Buffer buffer = Buffer::kData;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;

  uint64_t end_bytes() const { return offset_bytes + size_bytes; }
  bool operator==(const Region&) const = default;
};

inline bool overlap(const Region& a, const Region& b) {
  return a.buffer == b.buffer && a.offset_bytes < b.end_bytes() && b.offset_bytes < a.end_bytes();
}

enum class Verb : uint8_t {
  kSend,    // source -> peer
  kRecv,    // peer -> target, stored or reduced
  kEncode,  // source -> target, which lies in the wire buffer
  kDecode,  // source -> target, stored or reduced
};

// Without a codec encode and decode are copies (decode with `reduce` adds). An empty frame is a
// step too: it carries only the call, so that ranks that send one way still hear of a mismatch.
struct Step {
  Verb verb = Verb::kSend;
  bool reduce = false;
  int peer = -1;
  uint32_t ordinal = 0;  // of the frame among those between me and the peer, this way, in this lane
  // Of a send: 1 + the ordinal of the peer's frame that I store over the same region, where nothing
  // else touches the region in between. 0: there is none.
  uint32_t answer = 0;
  Region source;
  Region target;
  // Of a store into data: nothing in the lane reads or changes it any more.
  bool last = false;
};

using Lane = std::vector<Step>;

struct Schedule {
  std::vector<Lane> lanes;
  uint64_t scratch_bytes = 0;
  bool scratch_shared =
      false;  // several ranks take what lies there: it had better be theirs to read
};

// Writes down one lane. Builders speak through it; it numbers the frames. Empty regions write
// nothing down, and regions beyond kMaxFrameBytes become several steps, alike on both sides.
class LaneBuilder {
 public:
  void send(int peer, const Region& source);
  void recv(int peer, const Region& target);         // store
  void recv_reduce(int peer, const Region& target);  // target = target op received
  void encode(const Region& source, const Region& target);
  void decode(const Region& source, const Region& target);
  void decode_reduce(const Region& source, const Region& target);
  // A local copy: a decode without a codec.
  void copy(const Region& source, const Region& target) { decode(source, target); }
  // A frame without payload: an arrival, an acknowledgement.
  void send_empty(int peer);
  void recv_empty(int peer);
  // Ends with the handshake: a peer that only sends to me gets an empty frame as my first step, and
  // one that only receives from me owes me one before I end. So where calls do not match, both
  // sides of every pair that exchanges frames see it.
  Lane finish();

 private:
  void append(Verb verb, bool reduce, int peer, const Region& source, const Region& target);
  void find_answers();
  void find_last_stores();

  Lane lane_;
  std::map<int, uint32_t> sent_;
  std::map<int, uint32_t> received_;
};

// What a builder needs to know. Buffers, in elements of `element_size` bytes (n = world):
//   collective       input            data
//   all_reduce       (unused)         count, in place
//   reduce_scatter   n * count        count
//   all_gather       count            n * count (input may be data's part `rank`)
//   broadcast        (unused)         count, in place
//   reduce           count            count, at the root only (may be the same memory as input)
//   gather           count            n * count, at the root only
//   scatter          n * count, root  count
//   all_to_all       sum(send_counts) sum(recv_counts), parts in rank order
//   barrier          (unused)         (unused)
// With a count of 0 every collective but all_to_all takes the barrier's steps. Input and data that
// are the same memory make copies between equal places, which an engine leaves out.
struct PlanRequest {
  Collective collective = Collective::kAllReduce;
  Algorithm algorithm = Algorithm::kRing;  // never kAuto: choose has picked
  int rank = 0;
  int world = 1;
  uint64_t count = 0;
  uint32_t element_size = 1;
  int lanes = 1;
  uint64_t chunk_bytes = 256 * 1024;  // what a pipelined step moves (of a tree, and of a broadcast
                                      // by scratch); a frame never exceeds kMaxFrameBytes
  int shots = 0;  // of direct all_reduce, 1 or 2; 0: by size, see kOneShotBytes. Of direct
                  // broadcast, 2: by way of scratch that all can read
  uint64_t block_bytes = 0;  // all_reduce but tree and one-shot goes over the data in blocks, so
                             // that a sum is still in the cache when it is sent on; 0: all at once
  int root = 0;              // of broadcast, reduce, gather, scatter
  std::span<const int> host_of;  // host index of every rank, 0-based and dense; empty: one host
  std::span<const uint64_t> send_counts;  // all_to_all only: elements to each rank; both empty:
  std::span<const uint64_t> recv_counts;  // and from each rank                  `count` each
};

inline constexpr uint64_t kMaxFrameBytes = uint64_t{1} << 30;

// The schedule of `request.rank`. Pure: the same request gives the same steps on every machine.
// Raises InvalidArgumentError for an algorithm that the collective does not have.
Schedule build(const PlanRequest& request);

// "recv_reduce(peer=1 -> data[0, 64))", for messages.
std::string describe(const Step& step);

// The algorithms `build` knows for a collective, the default one first.
std::span<const Algorithm> algorithms_of(Collective collective);

}  // namespace fastgpu
