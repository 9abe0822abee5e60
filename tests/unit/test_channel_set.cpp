#include <string>

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

struct Fixture {
  Engine engine{EngineConfig{.background = false}};
  ChannelSet channels{engine, 3, 2, [](int, int) {}, [](int, const Failure&) {}};
};

// Over TCP the last data of a peer may still be on its way when its control link says that it
// leaves. The receiver reads until the end of the stream.
TEST(a_peer_that_leaves_in_order_may_still_be_read) {
  Fixture fixture;
  bool hung_up = false;
  fixture.channels.on_receiver(1, 0, std::make_unique<Quiet>(&hung_up));
  fixture.channels.on_departed(1, /*in_order=*/true, "");
  CHECK(!hung_up);
  FrameHeader header;
  CHECK(fixture.channels.receiver(1, 0)->peek(header) == Io::kBlocked);
  CHECK(fixture.channels.receiver(1, 1)->peek(header) == Io::kClosed);  // never opened
  CHECK(fixture.channels.departure(1).find("has left") != std::string::npos);
}

TEST(a_lost_peer_is_hung_up) {
  Fixture fixture;
  bool hung_up = false;
  fixture.channels.on_receiver(2, 1, std::make_unique<Quiet>(&hung_up));
  fixture.channels.on_departed(2, /*in_order=*/false, "its process ended");
  CHECK(hung_up);
  CHECK_EQ(fixture.channels.departure(2), "was lost: its process ended");
  CHECK_EQ(fixture.channels.departure(1), "");
}

TEST(a_closed_channel_waits_for_its_reason) {
  Fixture fixture;
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

}  // namespace
}  // namespace fastgpu
