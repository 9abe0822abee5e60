#include "plan/sums.h"

#include <algorithm>

namespace fastgpu {
namespace {

bool is_plain_store(const Step& step) {
  return step.verb != Verb::kSend && step.coding == Coding::kPlain && !step.reduce;
}

// Whether a step from `index` on reads a byte of the region before it is written again.
bool is_read(const Lane& lane, std::size_t index, Region region) {
  for (; index < lane.size() && region.size_bytes > 0; ++index) {
    const Step& step = lane[index];
    const Region& target = step.target;
    if (overlap(step.source, region)) return true;
    if (step.verb == Verb::kSend || !overlap(target, region)) continue;
    if (step.reduce) return true;
    const uint64_t begin = region.offset_bytes;
    const uint64_t end = region.end_bytes();
    if (target.offset_bytes <= begin) {
      region.offset_bytes = std::min(end, target.end_bytes());
      region.size_bytes = end - region.offset_bytes;
    } else if (target.end_bytes() >= end) {
      region.size_bytes = target.offset_bytes - begin;
    }
  }
  return false;
}

}  // namespace

bool is_continued(const Lane& lane, std::size_t index) {
  if (index + 1 >= lane.size()) return false;
  const Step& step = lane[index];
  const Step& next = lane[index + 1];
  return step.verb != Verb::kSend && step.coding == Coding::kPlain && next.verb != Verb::kSend &&
         next.coding == Coding::kPlain && next.reduce && next.target == step.target;
}

bool is_set_aside(const Lane& lane, std::size_t index) {
  const Step& copy = lane[index];
  std::size_t at = index + 1;
  if (copy.verb != Verb::kCopy || !is_plain_store(copy) || copy.target.buffer != Buffer::kScratch ||
      at >= lane.size() || !is_plain_store(lane[at]) || lane[at].target != copy.source ||
      overlap(lane[at].source, copy.target)) {
    return false;
  }
  int readers = 0;
  for (; is_continued(lane, at); ++at) {
    const Region& added = lane[at + 1].source;
    if (!overlap(added, copy.target)) continue;
    if (added != copy.target) return false;
    ++readers;
  }
  return readers == 1 && !is_read(lane, at + 1, copy.target);
}

void leave_out_set_aside(Schedule& schedule) {
  for (Lane& lane : schedule.lanes) {
    for (std::size_t i = 0; i < lane.size();) {
      if (!is_set_aside(lane, i)) {
        ++i;
        continue;
      }
      const Region copy = lane[i].target;
      lane.erase(std::ranges::find_if(
          lane.begin() + static_cast<std::ptrdiff_t>(i), lane.end(),
          [&](const Step& step) { return step.verb == Verb::kCopy && step.source == copy; }));
      lane.erase(lane.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

}  // namespace fastgpu
