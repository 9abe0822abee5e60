#include "plan/proof/verify.h"

#include <algorithm>
#include <set>

#include "plan/proof/contract.h"
#include "plan/proof/symbolic_run.h"
#include "plan/proof/well_formed.h"

namespace fastgpu {
namespace {

// The requests of all ranks, which share their counts.
class Requests {
 public:
  Requests(const PlanRequest& like, std::span<const uint64_t> all_counts)
      : like_(like), all_counts_(all_counts) {
    const auto world = static_cast<std::size_t>(like.world);
    columns_.resize(all_counts.size());
    for (std::size_t at = 0; at < all_counts.size(); ++at) {
      columns_[at % world * world + at / world] = all_counts[at];
    }
  }

  PlanRequest of(int rank) const {
    PlanRequest request = like_;
    request.rank = rank;
    const auto world = static_cast<std::size_t>(like_.world);
    const std::size_t first = static_cast<std::size_t>(rank) * world;
    request.send_counts = {};
    request.recv_counts = {};
    if (all_counts_.empty()) return request;
    request.send_counts = all_counts_.subspan(first, world);
    request.recv_counts = std::span<const uint64_t>(columns_).subspan(first, world);
    return request;
  }

 private:
  const PlanRequest& like_;
  std::span<const uint64_t> all_counts_;
  std::vector<uint64_t> columns_;  // the transpose of all_counts
};

void count(std::span<const Schedule> schedules, Proof& proof) {
  for (const Schedule& schedule : schedules) {
    uint64_t bytes = 0;
    uint64_t frames = 0;
    uint64_t steps = 0;
    for (const Lane& lane : schedule.lanes) {
      steps += lane.size();
      for (const Step& step : lane) {
        if (step.verb != Verb::kSend) continue;
        bytes += step.source.size_bytes;
        ++frames;
      }
    }
    proof.bytes_sent.push_back(bytes);
    proof.frames_sent.push_back(frames);
    proof.steps.push_back(steps);
  }
}

// One expected stretch against what lies there.
void check_stretch(int rank, const Piece& expected, const Memory& data, const Terms& terms) {
  for (const Piece& piece : data.read(expected.begin, expected.end)) {
    const std::string found = "rank " + std::to_string(rank) + " ends with byte " +
                              std::to_string(piece.origin) + " of " + terms.show(piece.term) +
                              " at byte " + std::to_string(expected.begin + piece.begin) +
                              " of its data, not with byte " +
                              std::to_string(expected.origin + piece.begin) + " of ";
    if (expected.term == kEverybody && !terms.complete(piece.term)) {
      throw ProofFailure(found + "everybody");
    }
    if (expected.term != kEverybody && piece.term != expected.term) {
      throw ProofFailure(found + "rank " + std::to_string(expected.term));
    }
    if (piece.origin != expected.origin + piece.begin) throw ProofFailure(found + "the same");
  }
}

void check_results(const Contract& promise, std::span<const RankMemory> memories,
                   const Terms& terms, Proof& proof) {
  constexpr auto kData = static_cast<std::size_t>(Buffer::kData);
  std::set<int> orders;
  for (int rank = 0; rank < promise.like.world; ++rank) {
    const Memory& data = memories[static_cast<std::size_t>(rank)].buffers[kData];
    for (const Piece& expected : promise.end(rank)) check_stretch(rank, expected, data, terms);
    if (!promise.reduces()) continue;
    for (const Piece& piece : data.pieces()) orders.insert(piece.term);
    if (promise.like.collective != Collective::kAllReduce || rank == 0) continue;
    const Memory& first = memories.front().buffers[kData];
    if (merged(data.pieces()) != merged(first.pieces())) {
      throw ProofFailure("ranks 0 and " + std::to_string(rank) +
                         " reduce in different orders: " + terms.show(first.pieces().front().term) +
                         " ... and " + terms.show(data.pieces().front().term) + " ...");
    }
  }
  proof.orders.clear();
  for (const int term : orders) proof.orders.push_back(terms.show(term));
  std::sort(proof.orders.begin(), proof.orders.end());
}

void rehearse(const Contract& promise, const VerifyOptions& options,
              std::span<const Schedule> schedules, bool in_place, Proof& proof) {
  Terms terms(promise.like.world);
  std::vector<RankMemory> memories;
  for (int rank = 0; rank < promise.like.world; ++rank) {
    const uint64_t scratch_bytes = schedules[static_cast<std::size_t>(rank)].scratch_bytes;
    memories.push_back(promise.begin(rank, scratch_bytes, in_place));
  }
  SymbolicRun rehearsal(schedules, memories, terms, options.capacity, options.seed);
  rehearsal.run();
  proof.rounds = rehearsal.rounds();
  check_results(promise, memories, terms, proof);
  for (int rank = 0; promise.barrier() && rank < promise.like.world; ++rank) {
    for (int other = 0; other < promise.like.world; ++other) {
      if (rank == other || rehearsal.heard_of(rank, other)) continue;
      throw ProofFailure("rank " + std::to_string(rank) + " may end before rank " +
                         std::to_string(other) + " began");
    }
  }
}

std::string describe(const PlanRequest& like, const VerifyOptions& options) {
  return std::string(name_of(like.collective)) + " " + std::string(name_of(like.algorithm)) +
         " world=" + std::to_string(like.world) + " count=" + std::to_string(like.count) +
         " element_size=" + std::to_string(like.element_size) +
         " lanes=" + std::to_string(like.lanes) + " root=" + std::to_string(like.root) +
         " chunk_bytes=" + std::to_string(like.chunk_bytes) +
         " block_bytes=" + std::to_string(like.block_bytes) +
         " capacity=" + std::to_string(options.capacity) + " seed=" + std::to_string(options.seed) +
         ": ";
}

}  // namespace

std::vector<Schedule> build_all(const PlanRequest& like, const VerifyOptions& options) {
  const Requests requests(like, options.all_counts);
  std::vector<Schedule> schedules;
  schedules.reserve(static_cast<std::size_t>(like.world));
  for (int rank = 0; rank < like.world; ++rank) schedules.push_back(build(requests.of(rank)));
  return schedules;
}

Proof verify(const PlanRequest& like, const VerifyOptions& options) {
  return verify(like, options, build_all(like, options));
}

Proof verify(const PlanRequest& like, const VerifyOptions& options,
             std::span<const Schedule> schedules) {
  const Contract promise{like, options.all_counts};
  const bool in_place_too =
      like.collective == Collective::kReduce || like.collective == Collective::kAllGather;
  Proof proof;
  try {
    count(schedules, proof);
    check_well_formed(promise, schedules);
    rehearse(promise, options, schedules, false, proof);
    if (in_place_too) rehearse(promise, options, schedules, true, proof);
  } catch (const ProofFailure& refuted) {
    proof.counterexample = describe(like, options) + refuted.what();
  }
  return proof;
}

}  // namespace fastgpu
