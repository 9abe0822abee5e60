#include <string>
#include <vector>

#include "check.h"
#include "comm/channel_set.h"
#include "engine/engine.h"

namespace fastgpu {
namespace {

struct Quiet : RecvChannel {
  explicit Quiet(bool* hung_up) : hung_up_(hung_up) {}
  Io peek(FrameHeader&) override { return Io::kBlocked; }
  Io try_recv(Incoming&) override { return Io::kBlocked; }
  void hang_up() noexcept override { *hung_up_ = true; }
  bool* hung_up_;
};

struct ChannelSetFixture {
  Engine engine{EngineConfig{.background = false}};
  ChannelSet channels{engine, 3, 2, [](int, int) {}, [](int, const Failure&) {}};
};

// The control link says that the peer leaves. Over TCP the last frames may arrive after that,
// on another connection, and the end of the stream follows them.
TEST(a_peer_that_leaves_in_order_may_still_be_read) {
  ChannelSetFixture fixture;
  bool hung_up = false;
  fixture.channels.on_receiver(1, 0, std::make_unique<Quiet>(&hung_up));
  fixture.channels.on_departed(1, /*in_order=*/true, "");
  CHECK(!hung_up);
  FrameHeader header;
  CHECK(fixture.channels.receiver(1, 0)->peek(header) == Io::kBlocked);
  CHECK(fixture.channels.receiver(1, 1)->peek(header) == Io::kClosed);  // never opened
  CHECK_EQ(fixture.channels.departure(1), "has left the group");
  fixture.channels.on_departed(2, /*in_order=*/true, "its program\nended\x1b[31m");
  CHECK_EQ(fixture.channels.departure(2), "has left the group: its program ended [31m");
}

TEST(a_lost_peer_is_hung_up) {
  ChannelSetFixture fixture;
  bool hung_up = false;
  fixture.channels.on_receiver(2, 1, std::make_unique<Quiet>(&hung_up));
  fixture.channels.on_departed(2, /*in_order=*/false, "its process ended");
  CHECK(hung_up);
  CHECK_EQ(fixture.channels.departure(2), "was lost: its process ended");
  CHECK_EQ(fixture.channels.departure(1), "");
}

TEST(a_closed_channel_waits_for_its_reason) {
  ChannelSetFixture fixture;
  CHECK(!fixture.channels.departed(1));
  fixture.channels.on_departed(1, /*in_order=*/false, "its process ended");
  CHECK(fixture.channels.departed(1));
  CHECK_EQ(fixture.channels.departure(1), "was lost: its process ended");
}

TEST(a_closed_channel_whose_reason_does_not_come_says_so) {
  Engine engine{EngineConfig{.background = false}};
  ChannelSet channels(
      engine, 3, 2, [](int, int) {}, [](int, const Failure&) {}, /*reason_limit=*/0);
  CHECK(!channels.departed(2));
  const TimeNs since = now_ns();
  while (now_ns() == since) {
  }
  CHECK(channels.departed(2));
  CHECK_EQ(channels.departure(2), "closed its connection and gave no reason within 0 ms");
  CHECK_EQ(channels.departure(1), "");
}

TEST(news_of_gpu_memory_goes_to_who_expects_it) {
  ChannelSetFixture fixture;
  const auto pass = [&] { fixture.channels.on_device_segment(1, 7, 4096, UniqueFd()); };
  const auto confirm = [&] { fixture.channels.on_device_segment_mapped(2, 8); };
  CHECK_THROWS(pass(), PeerLostError,
               "rank 1 sent news of a GPU's memory, but this rank has used none");
  CHECK_THROWS(confirm(), PeerLostError, "rank 2 ");
  std::vector<std::string> heard;
  fixture.channels.expect_device_segments(
      {.take =
           [&](int peer, uint32_t segment, const SharedSegment& shared) {
             heard.push_back(std::to_string(peer) + " passed " + std::to_string(segment) + ": " +
                             std::to_string(shared.size_bytes));
           },
       .note_mapped =
           [&](int peer, uint32_t segment) {
             heard.push_back(std::to_string(peer) + " mapped " + std::to_string(segment));
           }});
  pass();
  confirm();
  CHECK(heard == (std::vector<std::string>{"1 passed 7: 4096", "2 mapped 8"}));
}

TEST(a_lane_is_opened_only_if_it_exists) {
  ChannelSetFixture fixture;
  bool hung_up = false;
  const auto open = [&](int lane) {
    fixture.channels.on_receiver(1, lane, std::make_unique<Quiet>(&hung_up));
  };
  open(0);
  CHECK_THROWS(open(2), PeerLostError, "opened lane 2, but this rank has 2 lanes");
  CHECK_THROWS(open(-1), PeerLostError, "opened lane -1");
  fixture.channels.on_departed(1, /*in_order=*/false, "its process ended");
  open(1);  // its connection was on its way when the peer was lost
  CHECK(hung_up);
}

}  // namespace
}  // namespace fastgpu
