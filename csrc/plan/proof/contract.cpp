#include "plan/proof/contract.h"

namespace fastgpu {

bool Contract::is_barrier() const {
  return request.collective == Collective::kBarrier ||
         (request.count == 0 && request.collective != Collective::kAllToAll);
}

uint64_t Contract::sent_bytes(int from, int to) const {
  if (all_counts.empty()) return part_bytes();
  const auto world = static_cast<std::size_t>(request.world);
  return all_counts[static_cast<std::size_t>(from) * world + static_cast<std::size_t>(to)] *
         request.element_size;
}

uint64_t Contract::input_bytes(int rank) const {
  const uint64_t all = part_bytes() * static_cast<uint64_t>(request.world);
  uint64_t sum = 0;
  switch (request.collective) {
    case Collective::kAllReduce:
    case Collective::kBroadcast:
    case Collective::kBarrier:
      return 0;
    case Collective::kReduceScatter:
      return all;
    case Collective::kScatter:
      return rank == request.root ? all : 0;
    case Collective::kAllGather:
    case Collective::kReduce:
    case Collective::kGather:
      return part_bytes();
    case Collective::kAllToAll:
      for (int to = 0; to < request.world; ++to) sum += sent_bytes(rank, to);
      return sum;
  }
  return 0;
}

uint64_t Contract::data_bytes(int rank) const {
  const uint64_t all = part_bytes() * static_cast<uint64_t>(request.world);
  uint64_t sum = 0;
  switch (request.collective) {
    case Collective::kBarrier:
      return 0;
    case Collective::kAllReduce:
    case Collective::kBroadcast:
    case Collective::kReduceScatter:
    case Collective::kScatter:
      return part_bytes();
    case Collective::kReduce:
      return rank == request.root ? part_bytes() : 0;
    case Collective::kAllGather:
      return all;
    case Collective::kGather:
      return rank == request.root ? all : 0;
    case Collective::kAllToAll:
      for (int from = 0; from < request.world; ++from) sum += sent_bytes(from, rank);
      return sum;
  }
  return 0;
}

RankMemory Contract::initial_memory(int rank, uint64_t scratch_bytes, bool in_place) const {
  RankMemory memory;
  const uint64_t sizes[] = {input_bytes(rank), data_bytes(rank), scratch_bytes};
  for (const uint64_t size_bytes : sizes) memory.buffers.emplace_back(size_bytes);
  const bool has_data = data_bytes(rank) > 0;
  memory.in_place = in_place && has_data;
  if (request.collective == Collective::kAllGather) {
    memory.input_in_data = static_cast<uint64_t>(rank) * part_bytes();
  }
  const auto fill = [&](Buffer buffer, uint64_t size_bytes) {
    const Region region = memory.resolve({buffer, 0, size_bytes});
    if (size_bytes == 0) return;
    memory.buffers[static_cast<std::size_t>(region.buffer)].store(
        region.offset_bytes, {{0, size_bytes, 0, Terms::leaf(rank)}});
  };
  fill(Buffer::kInput, input_bytes(rank));
  const bool begins_with_data =
      request.collective == Collective::kAllReduce ||
      (request.collective == Collective::kBroadcast && rank == request.root);
  if (begins_with_data) fill(Buffer::kData, data_bytes(rank));
  return memory;
}

std::vector<Piece> Contract::expected_data(int rank) const {
  const uint64_t part = part_bytes();
  const uint64_t own_part = static_cast<uint64_t>(rank) * part;  // offset in an input of n parts
  std::vector<Piece> pieces;
  uint64_t at = 0;
  const auto expect = [&](uint64_t size_bytes, uint64_t origin, int term) {
    if (size_bytes > 0) pieces.push_back({at, at + size_bytes, origin, term});
    at += size_bytes;
  };
  switch (request.collective) {
    case Collective::kBarrier:
      break;
    case Collective::kAllReduce:
      expect(part, 0, kAllRanks);
      break;
    case Collective::kReduceScatter:
      expect(part, own_part, kAllRanks);
      break;
    case Collective::kReduce:
      if (rank == request.root) expect(part, 0, kAllRanks);
      break;
    case Collective::kBroadcast:
      expect(part, 0, Terms::leaf(request.root));
      break;
    case Collective::kScatter:
      expect(part, own_part, Terms::leaf(request.root));
      break;
    case Collective::kGather:
      if (rank != request.root) break;
      [[fallthrough]];
    case Collective::kAllGather:
      for (int from = 0; from < request.world; ++from) expect(part, 0, Terms::leaf(from));
      break;
    case Collective::kAllToAll:
      for (int from = 0; from < request.world; ++from) {
        uint64_t origin = 0;
        for (int to = 0; to < rank; ++to) origin += sent_bytes(from, to);
        expect(sent_bytes(from, rank), origin, Terms::leaf(from));
      }
      break;
  }
  return pieces;
}

}  // namespace fastgpu
