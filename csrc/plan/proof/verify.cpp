#include "plan/proof/verify.h"

#include <algorithm>
#include <set>

#include "plan/proof/contract.h"
#include "plan/proof/symbolic_run.h"
#include "plan/proof/well_formed.h"

namespace fastgpu {
namespace {

// The requests of all ranks.
class Requests {
 public:
  Requests(const PlanRequest& request, std::span<const uint64_t> all_counts)
      : request_(request), all_counts_(all_counts) {
    const auto world = static_cast<std::size_t>(request.world);
    columns_.resize(all_counts.size());
    for (std::size_t at = 0; at < all_counts.size(); ++at) {
      columns_[at % world * world + at / world] = all_counts[at];
    }
  }

  PlanRequest of(int rank) const {
    PlanRequest request = request_;
    request.rank = rank;
    const auto world = static_cast<std::size_t>(request_.world);
    const std::size_t first = static_cast<std::size_t>(rank) * world;
    request.send_counts = {};
    request.recv_counts = {};
    if (all_counts_.empty()) return request;
    request.send_counts = all_counts_.subspan(first, world);
    request.recv_counts = std::span<const uint64_t>(columns_).subspan(first, world);
    return request;
  }

 private:
  const PlanRequest& request_;
  std::span<const uint64_t> all_counts_;  // row i: send_counts of rank i
  std::vector<uint64_t> columns_;         // the transpose; row i: recv_counts of rank i
};

void count_steps(std::span<const Schedule> schedules, Proof& proof) {
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

// Compares one expected piece with the data of `rank`.
void check_piece(int rank, int world, const Piece& expected, const SymbolicMemory& data,
                 const Terms& terms) {
  for (const Piece& piece : data.read(expected.begin, expected.end)) {
    const std::string found = "rank " + std::to_string(rank) + " ends with byte " +
                              std::to_string(piece.origin) + " of " + terms.show(piece.term) +
                              " at byte " + std::to_string(expected.begin + piece.begin) +
                              " of its data, not with byte " +
                              std::to_string(expected.origin + piece.begin) + " of ";
    if (expected.term == kAllRanks && !terms.complete(piece.term)) {
      throw ProofFailure(found + "the sum of all ranks");
    }
    if (expected.term == kAllRanks && world > 1 && !terms.is_result(piece.term)) {
      throw ProofFailure(found + "a sum that a step completes");
    }
    if (expected.term != kAllRanks && piece.term != expected.term) {
      throw ProofFailure(found + "rank " + std::to_string(expected.term));
    }
    if (piece.origin != expected.origin + piece.begin) throw ProofFailure(found + "that term");
  }
}

void check_results(const Contract& contract, std::span<const RankMemory> memories,
                   const Terms& terms, Proof& proof) {
  constexpr auto kData = static_cast<std::size_t>(Buffer::kData);
  std::set<int> orders;
  for (int rank = 0; rank < contract.request.world; ++rank) {
    const SymbolicMemory& data = memories[static_cast<std::size_t>(rank)].buffers[kData];
    for (const Piece& expected : contract.expected_data(rank)) {
      check_piece(rank, contract.request.world, expected, data, terms);
    }
    if (!reduces(contract.request.collective)) continue;
    for (const Piece& piece : data.pieces()) orders.insert(piece.term);
    if (contract.request.collective != Collective::kAllReduce || rank == 0) continue;
    const SymbolicMemory& first = memories.front().buffers[kData];
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

void run_on_symbols(const Contract& contract, const VerifyOptions& options,
                    std::span<const Schedule> schedules, bool in_place, Proof& proof) {
  Terms terms(contract.request.world);
  std::vector<RankMemory> memories;
  for (int rank = 0; rank < contract.request.world; ++rank) {
    const uint64_t scratch_bytes = schedules[static_cast<std::size_t>(rank)].scratch_bytes;
    memories.push_back(contract.initial_memory(rank, scratch_bytes, in_place));
  }
  SymbolicRun run(schedules, memories, terms, options.capacity, options.seed);
  run.run();
  proof.rounds = run.rounds();
  check_results(contract, memories, terms, proof);
  for (int rank = 0; contract.is_barrier() && rank < contract.request.world; ++rank) {
    for (int other = 0; other < contract.request.world; ++other) {
      if (rank == other || run.heard_of(rank, other)) continue;
      throw ProofFailure("rank " + std::to_string(rank) + " may end before rank " +
                         std::to_string(other) + " has begun");
    }
  }
}

std::string describe(const PlanRequest& request, const VerifyOptions& options) {
  return std::string(name_of(request.collective)) + " " + std::string(name_of(request.algorithm)) +
         " world=" + std::to_string(request.world) + " count=" + std::to_string(request.count) +
         " element_size=" + std::to_string(request.element_size) +
         " lanes=" + std::to_string(request.lanes) + " root=" + std::to_string(request.root) +
         " chunk_bytes=" + std::to_string(request.chunk_bytes) +
         " block_bytes=" + std::to_string(request.block_bytes) +
         " capacity=" + std::to_string(options.capacity) + " seed=" + std::to_string(options.seed) +
         ": ";
}

}  // namespace

std::vector<Schedule> build_all(const PlanRequest& request, const VerifyOptions& options) {
  const Requests requests(request, options.all_counts);
  std::vector<Schedule> schedules;
  schedules.reserve(static_cast<std::size_t>(request.world));
  for (int rank = 0; rank < request.world; ++rank) schedules.push_back(build(requests.of(rank)));
  return schedules;
}

Proof verify(const PlanRequest& request, const VerifyOptions& options) {
  return verify(request, options, build_all(request, options));
}

Proof verify(const PlanRequest& request, const VerifyOptions& options,
             std::span<const Schedule> schedules) {
  const Contract contract{request, options.all_counts};
  const bool in_place_too =
      request.collective == Collective::kReduce || request.collective == Collective::kAllGather;
  Proof proof;
  try {
    count_steps(schedules, proof);
    check_well_formed(contract, schedules);
    run_on_symbols(contract, options, schedules, false, proof);
    if (in_place_too) run_on_symbols(contract, options, schedules, true, proof);
  } catch (const ProofFailure& failure) {
    proof.counterexample = describe(request, options) + failure.what();
  }
  return proof;
}

}  // namespace fastgpu
