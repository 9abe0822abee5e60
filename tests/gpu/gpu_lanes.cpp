#include "gpu_lanes.h"

#include <algorithm>
#include <numeric>

#include "engine/device/table.h"

namespace fastgpu::test {
namespace {

constexpr uint64_t kFirstOperation = uint64_t{1} << 33;

GpuMemory counters(std::size_t count, uint64_t value) {
  return copy_to_gpu(std::span<const uint64_t>(std::vector<uint64_t>(count, value)));
}

}  // namespace

std::vector<int> all_ranks(int world) {
  std::vector<int> ranks(index_of(world));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

GpuGroup::GpuGroup(int world) {
  for (int rank = 0; rank < world; ++rank) controls_.emplace_back(sizeof(device::Control));
}

device::Group GpuGroup::of(int rank) const {
  device::Group group{};
  group.rank = rank;
  group.world = static_cast<int>(controls_.size());
  group.patience = patience_;
  group.host_word = host_word_.address();
  group.ended = ended_.address();
  for (std::size_t each = 0; each < controls_.size(); ++each) {
    group.control[each] = controls_[each].as<device::Control>();
  }
  return group;
}

std::vector<device::Control> GpuGroup::controls() const {
  std::vector<device::Control> controls(controls_.size());
  for (std::size_t rank = 0; rank < controls.size(); ++rank) {
    controls_[rank].download(&controls[rank], sizeof(device::Control));
  }
  return controls;
}

GpuLanes::GpuLanes(const LaneCase& lane_case, const std::vector<Schedule>& schedules,
                   const std::array<std::size_t, 3>& sizes)
    : case_(lane_case),
      schedules_(schedules),
      lanes_(static_cast<unsigned>(schedules.front().lanes.size())),
      group_(static_cast<int>(schedules.size())) {
  const auto world = static_cast<int>(schedules.size());
  for (int rank = 0; rank < world; ++rank) {
    const device::Table table = lane_case.all_counts.empty()
                                    ? device::compile(schedules, rank, {.fold = lane_case.fold})
                                    : device::compile_all_to_all(schedules[index_of(rank)], world);
    entries_.push_back(copy_to_gpu(std::span<const device::Entry>(table.entries)));
    first_.push_back(copy_to_gpu(std::span<const uint32_t>(table.first)));
    std::vector<GpuMemory> buffers;
    // Segment 0 is not used by this operation. Buffers begin somewhere inside theirs.
    std::vector<std::byte*> segments{nullptr};
    std::vector<uint64_t> locations;
    for (const std::size_t size : sizes) {
      buffers.emplace_back(size, shift_of(lane_case, rank));
      const uint64_t offset_bytes = 4096 * (index_of(rank) + segments.size());
      locations.push_back(segments.size() << device::Location::kSegmentShift | offset_bytes);
      segments.push_back(buffers.back().data() - offset_bytes);
    }
    segments_.push_back(copy_to_gpu(std::span<std::byte* const>(segments)));
    buffers_.push_back(std::move(buffers));
    locations_.push_back(std::move(locations));
    mail_.emplace_back(sizeof(device::Mail) * lanes_ * schedules.size());
    operations_.push_back(counters(lanes_, kFirstOperation));
  }
}

device::LaneArgs GpuLanes::args(int rank, uint64_t key) const {
  const std::size_t mine = index_of(rank);
  device::LaneArgs args{};
  args.group = group_.of(rank);
  args.entries = entries_[mine].as<device::Entry>();
  args.first = first_[mine].as<uint32_t>();
  args.key[0] = key;
  args.key[1] = ~key;
  args.factor = factor_of(case_);
  args.operation = operations_[mine].as<uint64_t>();
  for (std::size_t buffer = 0; buffer < 3; ++buffer) {
    args.buffers[buffer] = buffers_[mine][buffer].data();
    args.locations[buffer] = locations_[mine][buffer];
  }
  for (std::size_t each = 0; each < buffers_.size(); ++each) {
    args.segments[each] = segments_[each].as<std::byte* const>();
    args.mail[each] = mail_[each].as<device::Mail>();
  }
  return args;
}

GpuMemory GpuLanes::args_of(std::span<const int> ranks, uint64_t key) const {
  std::vector<device::LaneArgs> all;
  for (const int rank : ranks) all.push_back(args(rank, key));
  return copy_to_gpu(std::span<const device::LaneArgs>(all));
}

void GpuLanes::fill(int turn) const {
  for (std::size_t rank = 0; rank < buffers_.size(); ++rank) {
    const RankBuffers host = make_buffers(case_, schedules_[rank], static_cast<int>(rank));
    test::fill(case_, host, static_cast<int>(rank), turn);
    for (std::size_t buffer = 0; buffer < 2; ++buffer) {
      buffers_[rank][buffer].upload(host.memory[buffer].data(), host.memory[buffer].size_bytes());
    }
  }
}

Results GpuLanes::results() const {
  Results results;
  for (const std::vector<GpuMemory>& buffers : buffers_) {
    results.emplace_back(buffers[1].size_bytes());
    buffers[1].download(results.back().data(), results.back().size());
  }
  return results;
}

unsigned GpuSmall::blocks_of(uint64_t size_bytes) {
  const uint64_t words = (size_bytes + 3) / 4;
  return static_cast<unsigned>(
      std::clamp<uint64_t>((words + kThreads - 1) / kThreads, 1, device::kSmallBlocks));
}

GpuSmall::GpuSmall(const SmallCase& small_case) : case_(small_case), group_(small_case.world) {
  const std::size_t world = index_of(small_case.world);
  const std::size_t slots = kCapacity + device::kSmallBlocks * device::kKeyWords;
  for (std::size_t rank = 0; rank < world; ++rank) {
    slots_.emplace_back(2 * world * slots * sizeof(uint64_t));
    cleared_.emplace_back(device::kSmallBlocks * world * sizeof(uint64_t));
    operations_.push_back(counters(device::kSmallBlocks, small_case.ended));
  }
}

device::SmallArgs GpuSmall::args(int rank, const GpuMemory& data, uint64_t key) const {
  device::SmallArgs args{};
  args.group = group_.of(rank);
  args.key[0] = key;
  args.key[1] = ~key;
  args.input = data.data();
  args.output = data.data();
  args.size_bytes = data.size_bytes();
  args.factor = case_.averages ? 1.0 / case_.world : 1;
  args.capacity = kCapacity;
  args.operation = operations_[index_of(rank)].as<uint64_t>();
  for (std::size_t each = 0; each < slots_.size(); ++each) {
    args.slots[each] = slots_[each].as<uint64_t>();
    args.cleared[each] = cleared_[each].as<uint64_t>();
  }
  return args;
}

}  // namespace fastgpu::test
