// Tables: folded steps, batches of entries, and schedules that compile() refuses.
#include <algorithm>

#include "base/error.h"
#include "check.h"
#include "engine/device/fold.h"
#include "engine/device/table.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {
namespace {

using device::FoldStep;

device::Table table_of(const PlanRequest& request, int rank, bool fold = true) {
  return device::compile(build_all(request), rank, {.fold = fold});
}

PlanRequest direct_of(int world, int shots) {
  PlanRequest request = request_of(Collective::kAllReduce, Algorithm::kDirect, world, 1024);
  request.element_size = 4;
  request.shots = shots;
  return request;
}

// The numbers of sources of the table's n-way steps, in order.
std::vector<int> sources_of(const device::Table& table) {
  std::vector<int> counts;
  for (const device::Entry& entry : table.entries) {
    if (entry.kind == device::EntryKind::kCombine) counts.push_back(entry.count);
  }
  return counts;
}

constexpr Region kTarget{Buffer::kData, 0, 64};
constexpr Region kKept{Buffer::kScratch, 0, 64};
constexpr Region kOther{Buffer::kData, 64, 64};

FoldStep receive(const Region& target, int peer, bool reduce) {
  FoldStep step{.region = target};
  if (reduce) step.sources.push_back({.region = target});
  step.sources.push_back({.region = {Buffer::kData, 128, 64}, .peer = peer, .frame = 1});
  return step;
}

FoldStep copy(const Region& source, const Region& target, bool reduce) {
  FoldStep step{.region = target};
  if (reduce) step.sources.push_back({.region = target});
  step.sources.push_back({.region = source});
  return step;
}

FoldStep send(const Region& source) { return {.region = source, .peer = 1, .frame = 1}; }

std::size_t folded_size(std::vector<FoldStep> lane) {
  device::fold(lane);
  return lane.size();
}

}  // namespace

TEST(two_shot_folds_into_one_sum) {
  for (int world = 2; world <= device::kMaxRanks; ++world) {
    for (int rank = 0; rank < world; ++rank) {
      const device::Table table = table_of(direct_of(world, 2), rank);
      std::vector<int> expected(static_cast<std::size_t>(world), 1);
      expected.front() = world;
      CHECK(sources_of(table) == expected);
      // Neither the copy of the own shard, nor any other access to scratch is left.
      CHECK(std::ranges::none_of(table.entries, [](const device::Entry& entry) {
        return entry.place >> device::Place::kBufferShift == uint64_t{2};
      }));
    }
  }
}

TEST(one_shot_keeps_the_copy_that_it_sends) {
  const std::vector<int> expected{1, 5};
  CHECK(sources_of(table_of(direct_of(5, 1), 2)) == expected);
}

TEST(an_inner_rank_of_a_tree_adds_both_children_at_once) {
  PlanRequest tree = request_of(Collective::kAllReduce, Algorithm::kTree, 7, 16);
  tree.element_size = 4;
  const std::vector<int> counts = sources_of(table_of(tree, 1));
  CHECK_EQ(std::ranges::max(counts), 3);
  CHECK_EQ(std::ranges::max(sources_of(table_of(tree, 1, false))), 2);
}

TEST(posts_and_awaits_form_batches) {
  const device::Table table = table_of(direct_of(6, 1), 0);
  const auto batch_of = [&](device::EntryKind kind) {
    const auto first = std::ranges::find(table.entries, kind, &device::Entry::kind);
    return int{first->count};
  };
  CHECK_EQ(batch_of(device::EntryKind::kPost), 5);
  CHECK_EQ(batch_of(device::EntryKind::kTaken), 5);
  CHECK_EQ(batch_of(device::EntryKind::kAwait), 5);
}

TEST(receives_onto_one_target_fold) {
  CHECK_EQ(folded_size({receive(kTarget, 1, false), receive(kTarget, 2, true)}), 1u);
  CHECK_EQ(folded_size({receive(kTarget, 1, true), copy(kKept, kTarget, true)}), 1u);
  // With a step between that has nothing to do with them.
  CHECK_EQ(folded_size(
               {receive(kTarget, 1, true), receive(kOther, 1, false), receive(kTarget, 2, true)}),
           2u);
}

TEST(nothing_folds_across_a_send) {
  CHECK_EQ(folded_size({receive(kTarget, 1, true), send(kOther), receive(kTarget, 2, true)}), 3u);
}

TEST(nothing_folds_across_another_use) {
  CHECK_EQ(folded_size({receive(kTarget, 1, true), copy(kTarget, kOther, false),
                        receive(kTarget, 2, true)}),
           3u);
  // The copy's source is written in between.
  CHECK_EQ(folded_size({copy(kOther, kTarget, false), receive(kOther, 1, false),
                        receive(kTarget, 2, true)}),
           3u);
  // A store begins anew.
  CHECK_EQ(folded_size({receive(kTarget, 1, true), receive(kTarget, 2, false)}), 2u);
  // A complete sum is divided before anything follows.
  FoldStep complete = receive(kTarget, 1, true);
  complete.completes = true;
  CHECK_EQ(folded_size({complete, receive(kTarget, 2, true)}), 2u);
}

TEST(a_copy_is_forwarded_only_if_its_source_stays) {
  CHECK_EQ(folded_size({copy(kTarget, kKept, false), receive(kTarget, 1, false),
                        copy(kKept, kTarget, true)}),
           1u);
  CHECK_EQ(folded_size({copy(kTarget, kKept, false), receive(kTarget, 1, false), send(kTarget),
                        copy(kKept, kTarget, true)}),
           4u);
  CHECK_EQ(folded_size({copy(kTarget, kKept, false), send(kKept), receive(kTarget, 1, false),
                        copy(kKept, kTarget, true)}),
           3u);
}

TEST(what_lanes_cannot_do_is_refused) {
  const auto compile = [](const PlanRequest& request) { table_of(request, 0); };
  CHECK_THROWS(compile(direct_of(9, 2)), InvalidArgumentError, "at most 8 ranks, not 9");
  PlanRequest encoded = direct_of(4, 2);
  encoded.codec = Codec::kInt8;
  CHECK_THROWS(compile(encoded), InvalidArgumentError, "encoded");
}

}  // namespace fastgpu::test
