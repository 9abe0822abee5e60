#include "engine/device/fold.h"

#include <algorithm>
#include <optional>

#include "kernels/cuda/reduce.h"

namespace fastgpu::device {
namespace {

bool reads(const FoldStep& step, const Region& region) {
  if (step.is_send()) return overlap(step.region, region);
  return std::ranges::any_of(step.sources, [&](const FoldSource& source) {
    return source.is_local() && overlap(source.region, region);
  });
}

bool writes(const FoldStep& step, const Region& region) {
  return !step.is_send() && overlap(step.region, region);
}

// Whether `later` adds to what `earlier` writes, and one step can do both.
bool continues(const FoldStep& earlier, const FoldStep& later) {
  const FoldSource& first = later.sources.front();
  if (!(later.region == earlier.region) || !first.is_local() || !(first.region == later.region)) {
    return false;
  }
  const std::size_t count = earlier.sources.size() + later.sources.size() - 1;
  if (earlier.completes || later.sources.size() == 1 || count > kMaxSources) return false;
  return std::all_of(later.sources.begin() + 1, later.sources.end(), [&](const FoldSource& source) {
    return !source.is_local() || !overlap(source.region, later.region);
  });
}

// Whether `earlier` may run after `between` instead of before it.
bool may_swap(const FoldStep& earlier, const FoldStep& between) {
  if (between.is_send() || reads(between, earlier.region) || writes(between, earlier.region)) {
    return false;
  }
  return std::ranges::none_of(earlier.sources, [&](const FoldSource& source) {
    return source.is_local() && overlap(source.region, between.region);
  });
}

// The step that the one at `index` merges into.
std::optional<std::size_t> find_continuation(const std::vector<FoldStep>& lane, std::size_t index) {
  const FoldStep& step = lane[index];
  for (std::size_t later = index + 1; later < lane.size(); ++later) {
    if (lane[later].is_send()) return std::nullopt;
    if (continues(step, lane[later])) return later;
    if (!may_swap(step, lane[later])) return std::nullopt;
  }
  return std::nullopt;
}

void merge_chains(std::vector<FoldStep>& lane) {
  for (std::size_t i = 0; i < lane.size();) {
    const auto later = lane[i].is_send() ? std::nullopt : find_continuation(lane, i);
    if (!later) {
      ++i;
      continue;
    }
    std::vector<FoldSource>& sources = lane[*later].sources;
    std::vector<FoldSource> merged = lane[i].sources;
    merged.insert(merged.end(), sources.begin() + 1, sources.end());
    sources = std::move(merged);
    lane.erase(lane.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

// The only source that reads what the copy at `index` writes, before another step writes it again;
// nullptr if there are more readers, or others than an n-way step.
FoldSource* find_only_reader(std::vector<FoldStep>& lane, std::size_t index) {
  const Region copied = lane[index].region;
  const Region original = lane[index].sources.front().region;
  FoldSource* reader = nullptr;
  bool intact = true;  // `original` still has what was copied
  for (std::size_t later = index + 1; later < lane.size(); ++later) {
    FoldStep& step = lane[later];
    if (reads(step, copied)) {
      if (step.is_send() || reader != nullptr || !intact || writes(step, copied)) return nullptr;
      // A step may read its own target, but not a part of it.
      if (writes(step, original) && !(step.region == original)) return nullptr;
      for (FoldSource& source : step.sources) {
        if (!source.is_local() || !overlap(source.region, copied)) continue;
        if (!(source.region == copied) || reader != nullptr) return nullptr;
        reader = &source;
      }
    } else if (writes(step, copied)) {
      return step.region == copied ? reader : nullptr;
    }
    intact = intact && !writes(step, original);
  }
  return reader;
}

// Removes copies to scratch whose only reader can read the original.
void forward_copies(std::vector<FoldStep>& lane) {
  for (std::size_t i = 0; i < lane.size();) {
    const FoldStep& step = lane[i];
    const bool is_copy = step.sources.size() == 1 && step.sources.front().is_local() &&
                         step.region.buffer == Buffer::kScratch;
    FoldSource* const reader = is_copy ? find_only_reader(lane, i) : nullptr;
    if (reader == nullptr) {
      ++i;
      continue;
    }
    reader->region = step.sources.front().region;
    lane.erase(lane.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

}  // namespace

void fold(std::vector<FoldStep>& lane) {
  merge_chains(lane);
  forward_copies(lane);
}

}  // namespace fastgpu::device
