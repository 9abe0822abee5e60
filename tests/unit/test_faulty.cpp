#include <algorithm>
#include <bit>
#include <string>

#include "check.h"
#include "transport/faulty.h"
#include "transport/memory_channel.h"

namespace fastgpu::test {
namespace {

// The results of 200 tries to send an empty frame, one letter each.
std::string answers(const FaultPlan& plan) {
  auto [sender, receiver] = make_memory_channel(1000);
  const auto faulty = make_faulty(std::move(sender), plan);
  std::string all;
  for (int i = 0; i < 200; ++i) {
    Outgoing frame;
    all += "MBC"[static_cast<int>(faulty->try_send(frame))];
  }
  return all;
}

TEST(the_same_seed_misbehaves_the_same_way) {
  const std::string first = answers({.seed = 5, .block_probability = 0.5});
  CHECK_EQ(first, answers({.seed = 5, .block_probability = 0.5}));
  CHECK(first != answers({.seed = 6, .block_probability = 0.5}));
  const auto blocked = std::count(first.begin(), first.end(), 'B');
  CHECK(blocked > 60 && blocked < 140);
  CHECK_EQ(answers({.seed = 5}), std::string(200, 'M'));
}

TEST(closes_and_freezes_for_ever) {
  CHECK_EQ(answers({.close_after_calls = 30}), std::string(30, 'M') + std::string(170, 'C'));
  CHECK_EQ(answers({.freeze_after_calls = 30}), std::string(30, 'M') + std::string(170, 'B'));
}

TEST(a_close_reaches_the_other_end) {
  auto [sender, receiver] = make_memory_channel(4);
  const auto faulty = make_faulty(std::move(sender), {.close_after_calls = 0});
  FrameHeader header;
  CHECK_EQ(receiver->peek(header), Io::kBlocked);
  Outgoing frame;
  CHECK_EQ(faulty->try_send(frame), Io::kClosed);
  CHECK_EQ(receiver->peek(header), Io::kClosed);
}

TEST(one_frame_has_one_bit_of_its_key_flipped) {
  auto [sender, receiver] = make_memory_channel(4);
  const auto faulty = make_faulty(std::move(receiver), {.seed = 77, .corrupt_frame = 1});
  for (uint32_t i = 0; i < 3; ++i) {
    Outgoing frame{.header = {.ordinal = i, .key = {11, 22}}};
    CHECK_EQ(sender->try_send(frame), Io::kMoved);
  }
  for (uint32_t i = 0; i < 3; ++i) {
    for (int look = 0; look < 3; ++look) {  // the same at each look
      FrameHeader header;
      CHECK_EQ(faulty->peek(header), Io::kMoved);
      CHECK_EQ(header.ordinal, i);
      const int flipped = std::popcount(header.key[0] ^ 11) + std::popcount(header.key[1] ^ 22);
      CHECK_EQ(flipped, i == 1 ? 1 : 0);
    }
    Incoming incoming;
    CHECK_EQ(faulty->try_recv(incoming), Io::kMoved);
    CHECK(incoming.done);
  }
}

}  // namespace
}  // namespace fastgpu::test
