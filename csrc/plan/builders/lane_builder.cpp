#include "plan/builders/lane_builder.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fastgpu {
namespace {

constexpr Region kEmpty{};
constexpr int kNoPeer = -1;

// The part of `whole` that goes into the frame that begins `begin` bytes into it.
Region frame_of(const Region& whole, uint64_t begin) {
  if (whole.size_bytes == 0) return whole;  // a send has no target, a receive no source
  return {whole.buffer, whole.offset_bytes + begin,
          std::min(kMaxFrameBytes, whole.size_bytes - begin)};
}

// Adds a region to disjoint ranges (begin to end). Returns whether the region overlaps a range.
bool merge_range(std::map<uint64_t, uint64_t>& ranges, const Region& region) {
  uint64_t begin = region.offset_bytes;
  uint64_t end = region.end_bytes();
  auto at = ranges.lower_bound(begin);
  if (at != ranges.begin() && std::prev(at)->second > begin) --at;
  const bool overlaps = at != ranges.end() && at->first < end;
  while (at != ranges.end() && at->first < end) {
    begin = std::min(begin, at->first);
    end = std::max(end, at->second);
    at = ranges.erase(at);
  }
  ranges[begin] = end;
  return overlaps;
}

Step empty_frame(Verb verb, int peer, uint32_t ordinal) {
  return {.verb = verb, .peer = peer, .ordinal = ordinal, .source = kEmpty, .target = kEmpty};
}

}  // namespace

void LaneBuilder::append(Verb verb, bool reduce, int peer, const Region& source,
                         const Region& target) {
  const uint64_t size_bytes = std::max(source.size_bytes, target.size_bytes);
  for (uint64_t begin = 0; begin < size_bytes; begin += kMaxFrameBytes) {
    uint32_t ordinal = 0;
    if (verb == Verb::kSend) ordinal = sent_[peer]++;
    if (verb == Verb::kRecv) ordinal = received_[peer]++;
    lane_.push_back({.verb = verb,
                     .reduce = reduce,
                     .peer = peer,
                     .ordinal = ordinal,
                     .source = frame_of(source, begin),
                     .target = frame_of(target, begin)});
  }
}

void LaneBuilder::send(int peer, const Region& source) {
  append(Verb::kSend, false, peer, source, kEmpty);
}
void LaneBuilder::recv(int peer, const Region& target) {
  append(Verb::kRecv, false, peer, kEmpty, target);
}
void LaneBuilder::recv_reduce(int peer, const Region& target) {
  append(Verb::kRecv, true, peer, kEmpty, target);
}
void LaneBuilder::copy(const Region& source, const Region& target) {
  append(Verb::kCopy, false, kNoPeer, source, target);
}
void LaneBuilder::copy_reduce(const Region& source, const Region& target) {
  append(Verb::kCopy, true, kNoPeer, source, target);
}
void LaneBuilder::encode(const Region& source, const Region& target) {
  lane_.push_back({.verb = Verb::kCopy,
                   .coding = Coding::kEncode,
                   .peer = kNoPeer,
                   .source = source,
                   .target = target});
}
void LaneBuilder::decode(const Region& source, const Region& target) {
  lane_.push_back({.verb = Verb::kCopy,
                   .coding = Coding::kDecode,
                   .peer = kNoPeer,
                   .source = source,
                   .target = target});
}
void LaneBuilder::decode_reduce(const Region& source, const Region& target) {
  decode(source, target);
  lane_.back().reduce = true;
}
void LaneBuilder::add_residual(const Region& elements) {
  lane_.push_back({.verb = Verb::kCopy,
                   .coding = Coding::kAddResidual,
                   .peer = kNoPeer,
                   .source = elements,
                   .target = elements});
}
void LaneBuilder::mark_complete() { lane_.back().completes = true; }
void LaneBuilder::send_empty(int peer) {
  lane_.push_back(empty_frame(Verb::kSend, peer, sent_[peer]++));
}
void LaneBuilder::recv_empty(int peer) {
  lane_.push_back(empty_frame(Verb::kRecv, peer, received_[peer]++));
}

// One pass over the lane, with a map of the sends from data whose region no step has written since.
// A frame that is stored over exactly the region of a send to the same peer is its reply, unless
// another step has read a part of the region. A write ends the entry: no step writes a region that
// has a pending send, so the send has left.
void LaneBuilder::find_replies() {
  struct Sent {
    uint64_t end_bytes;
    Step* step;  // nullptr: another step reads the region, so the send has no reply
  };
  std::map<uint64_t, Sent> sent;  // by offset
  const auto for_each_overlap = [&](const Region& region, auto visit) {
    if (region.buffer != Buffer::kData || region.size_bytes == 0) return;
    auto at = sent.upper_bound(region.offset_bytes);
    if (at != sent.begin()) --at;
    while (at != sent.end() && at->first < region.end_bytes()) {
      at = at->second.end_bytes > region.offset_bytes ? visit(at) : std::next(at);
    }
  };
  for (Step& step : lane_) {
    bool sole_reader = true;
    for_each_overlap(step.source, [&](auto at) {
      sole_reader = false;
      at->second.step = nullptr;
      return std::next(at);
    });
    for_each_overlap(step.target, [&](auto at) {
      Step* const send = at->second.step;
      if (send != nullptr && step.verb == Verb::kRecv && !step.reduce && send->peer == step.peer &&
          send->source == step.target) {
        send->reply = step.ordinal + 1;
      }
      return sent.erase(at);
    });
    if (step.verb == Verb::kSend && step.source.buffer == Buffer::kData &&
        step.source.size_bytes > 0) {
      Sent& entry = sent[step.source.offset_bytes];
      entry = {std::max(entry.end_bytes, step.source.end_bytes()), sole_reader ? &step : nullptr};
    }
  }
}

// One pass from the last step to the first, with the ranges of data that later steps use.
void LaneBuilder::find_last_uses() {
  std::map<uint64_t, uint64_t> used;
  for (auto last = lane_.rbegin(); last != lane_.rend(); ++last) {
    Step& step = *last;
    for (const Region* region : {&step.target, &step.source}) {
      if (region->buffer != Buffer::kData || region->size_bytes == 0) continue;
      const bool used_later = merge_range(used, *region);
      if (region == &step.target && !step.reduce && !used_later) step.last_use = true;
    }
  }
}

// One pass from the last step to the first, with the ranges of data that later steps write. A rank
// that reduces elements and is not the last to do so receives their result later.
void LaneBuilder::find_completions() {
  const auto is_coded = [](const Step& step) { return step.coding != Coding::kPlain; };
  if (std::ranges::any_of(lane_, is_coded)) return;
  std::map<uint64_t, uint64_t> written;
  for (auto last = lane_.rbegin(); last != lane_.rend(); ++last) {
    const Region& target = last->target;
    if (target.buffer != Buffer::kData || target.size_bytes == 0) continue;
    const bool written_later = merge_range(written, target);
    last->completes = last->reduce && !written_later;
  }
}

Lane LaneBuilder::finish() {
  find_replies();
  find_last_uses();
  find_completions();
  Lane lane;
  for (const auto& [peer, frames] : received_) {
    if (!sent_.contains(peer)) lane.push_back(empty_frame(Verb::kSend, peer, 0));
  }
  lane.insert(lane.end(), lane_.begin(), lane_.end());
  for (const auto& [peer, frames] : sent_) {
    if (!received_.contains(peer)) lane.push_back(empty_frame(Verb::kRecv, peer, 0));
  }
  return lane;
}

}  // namespace fastgpu
