#include "comm/lane_launcher.h"

#include <algorithm>
#include <array>
#include <span>

namespace fastgpu {

// A piece's part of a tensor: the same bytes of every block.
struct LaneLauncher::Range {
  std::byte* begin = nullptr;  // of the first block's part
  uint64_t blocks = 0;
  uint64_t size_bytes = 0;    // size of each block's part
  uint64_t stride_bytes = 0;  // distance between the starts of two blocks

  static Range of(const std::byte* tensor, uint64_t tensor_bytes, const CallShape& shape,
                  const LanePiece& piece, uint64_t first_element) {
    if (tensor_bytes == 0) return {};
    const uint64_t element = size_of(shape.dtype);
    Range range{.begin = const_cast<std::byte*>(tensor) + first_element * element,
                .blocks = tensor_bytes / (shape.count * element),
                .size_bytes = piece.count * element,
                .stride_bytes = shape.count * element};
    if (range.size_bytes == range.stride_bytes) {
      range.size_bytes = range.stride_bytes = tensor_bytes;
      range.blocks = 1;
    }
    return range;
  }
};

// Where kernels find a tensor: this rank's kernel by `memory`, kernels of peers by `location`.
struct LaneLauncher::KernelBuffer {
  std::byte* memory;
  uint64_t location;
};

void LaneLauncher::enqueue(StreamHandle stream, const LaneLaunch& launch) {
  const LanePlan& plan = launch.plan;
  if (plan.is_small) return enqueue_small(stream, launch);
  const uint64_t count = plan.call.shape.count;
  for (uint64_t first_element = 0; first_element < count;) {
    const bool is_whole = first_element + plan.pieces.front().count <= count;
    const LanePiece& piece = is_whole ? plan.pieces.front() : plan.pieces.back();
    enqueue_piece(stream, launch, piece, first_element);
    first_element += piece.count;
  }
}

// The tensor itself, if all peers know its segment, else `staging_at` in the staging memory.
LaneLauncher::KernelBuffer LaneLauncher::buffer_for(const Range& range, uint64_t staging_at) {
  if (range.blocks == 1) {
    const auto span = memory_.find(range.begin, range.size_bytes);
    if (span && peers_.offer(span->segment)) {
      return {range.begin, LaneMemory::location_of(*span)};
    }
  }
  return {memory_.staging() + staging_at, LaneMemory::location_in_staging(staging_at)};
}

// Multiplies on the way if the call does that first.
void LaneLauncher::copy_in(StreamHandle stream, const LaneLaunch& launch, std::byte* memory,
                           const Range& range) {
  for (uint64_t block = 0; block < range.blocks; ++block) {
    const std::byte* const source = range.begin + block * range.stride_bytes;
    std::byte* const target = memory + block * range.size_bytes;
    if (launch.factors.before != 1) {
      devices_.reduce(stream, {.sources = {&source, 1},
                               .targets = {&target, 1},
                               .size_bytes = range.size_bytes,
                               .dtype = part_of(launch.plan.call.shape.dtype),
                               .factor = launch.factors.before});
    } else if (target != source) {
      devices_.copy(stream, target, source, range.size_bytes);
    }
  }
}

// Divides on the way if the kernel has left a sum.
void LaneLauncher::copy_out(StreamHandle stream, const LaneLaunch& launch, const std::byte* memory,
                            const Range& range) {
  for (uint64_t block = 0; block < range.blocks; ++block) {
    std::byte* const target = range.begin + block * range.stride_bytes;
    const std::byte* const source = memory + block * range.size_bytes;
    if (launch.plan.divides_later) {
      devices_.reduce(stream, {.sources = {&source, 1},
                               .targets = {&target, 1},
                               .size_bytes = range.size_bytes,
                               .dtype = launch.plan.call.shape.dtype,
                               .factor = launch.factors.after});
    } else if (target != source) {
      devices_.copy(stream, target, source, range.size_bytes);
    }
  }
}

void LaneLauncher::enqueue_small(StreamHandle stream, const LaneLaunch& launch) {
  const LanePlan& plan = launch.plan;
  const uint64_t size_bytes = plan.buffers.data_bytes;
  const Range data{
      .begin = launch.data, .blocks = 1, .size_bytes = size_bytes, .stride_bytes = size_bytes};
  copy_in(stream, launch, launch.data, data);
  device::SmallArgs args = memory_.small_args(launch.timeout_ns, launch.end);
  std::ranges::copy(pack(plan.call), args.key);
  args.input = launch.data;
  args.output = launch.data;
  args.size_bytes = size_bytes;
  args.factor = plan.divides_later ? 1 : launch.factors.after;
  const uint64_t words = (size_bytes + 3) / 4;
  const uint64_t blocks = (words + kernels_.threads - 1) / kernels_.threads;
  devices_.launch(
      stream, {.kernel = plan.kernel,
               .arguments = std::as_bytes(std::span(&args, 1)),
               .blocks = static_cast<unsigned>(std::min<uint64_t>(blocks, device::kSmallBlocks)),
               .threads = kernels_.threads});
  copy_out(stream, launch, launch.data, data);
}

// `first_element` of the piece is its number in every block.
void LaneLauncher::enqueue_piece(StreamHandle stream, const LaneLaunch& launch,
                                 const LanePiece& piece, uint64_t first_element) {
  const LanePlan& plan = launch.plan;
  const CallBuffers& buffers = plan.buffers;
  const CallShape& shape = plan.call.shape;
  const Range input = Range::of(launch.input, buffers.input_bytes, shape, piece, first_element);
  const Range data = Range::of(launch.data, buffers.data_bytes, shape, piece, first_element);
  // The caller's input stays as it is, and an output over it must not change what peers still read.
  const bool overlap = launch.input < launch.data + buffers.data_bytes &&
                       launch.data < launch.input + buffers.input_bytes;
  const bool input_stays = launch.factors.before == 1 && !overlap;
  const std::array<KernelBuffer, 3> kernel_buffers{
      buffer_for(input_stays ? input : Range{}, piece.input_at), buffer_for(data, piece.data_at),
      buffer_for({}, piece.scratch_at)};
  copy_in(stream, launch, kernel_buffers[0].memory, input);
  if (buffers.reads_data) copy_in(stream, launch, kernel_buffers[1].memory, data);
  device::LaneArgs args = memory_.lane_args(launch.timeout_ns, launch.end);
  std::ranges::copy(pack(plan.call), args.key);  // of the whole call
  args.entries = reinterpret_cast<const device::Entry*>(piece.entries->get());
  args.first = reinterpret_cast<const uint32_t*>(piece.first->get());
  args.factor = plan.divides_later ? 1 : launch.factors.after;
  for (std::size_t i = 0; i < kernel_buffers.size(); ++i) {
    args.buffers[i] = kernel_buffers[i].memory;
    args.locations[i] = kernel_buffers[i].location;
  }
  devices_.launch(stream, {.kernel = plan.kernel,
                           .arguments = std::as_bytes(std::span(&args, 1)),
                           .blocks = piece.lanes,
                           .threads = kernels_.threads});
  copy_out(stream, launch, kernel_buffers[1].memory, data);
}

}  // namespace fastgpu
