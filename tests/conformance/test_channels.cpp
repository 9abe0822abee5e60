#include "channel_suite.h"
#include "transport/memory.h"

namespace fastgpu::test {
namespace {

ChannelParameter memory_parameter(const char* name, std::size_t capacity, std::size_t piece_bytes) {
  return {.name = name,
          .make =
              [capacity, piece_bytes] {
                auto [sender, receiver] = make_memory_channel(capacity, piece_bytes);
                return ChannelEnds{nullptr, std::move(sender), std::move(receiver)};
              },
          .bound_bytes = capacity * 50'000};
}

const ChannelSuite kRendezvous(memory_parameter("memory_0", 0, SIZE_MAX));
const ChannelSuite kOne(memory_parameter("memory_1", 1, SIZE_MAX));
const ChannelSuite kFour(memory_parameter("memory_4", 4, SIZE_MAX));
const ChannelSuite kPieces(memory_parameter("memory_pieces", 2, 1001));

}  // namespace
}  // namespace fastgpu::test
