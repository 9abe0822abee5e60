// When the watch of a rank's kernels tells them that a peer has left.
#include <memory>

#include "check.h"
#include "comm/kernel_watch.h"
#include "lane_calls.h"

namespace fastgpu::test {
namespace {

// Open channels of rank 0 in a group of two. departed() returns true, as in ChannelSet 10 s after
// its first call, even for a peer that is there.
class OpenChannels final : public ChannelSource {
 public:
  SendChannel* sender(int /*peer*/, int /*lane*/) override { return nullptr; }
  RecvChannel* receiver(int /*peer*/, int /*lane*/) override { return nullptr; }
  bool departed(int /*peer*/) override { return true; }
  Presence presence(int /*peer*/) const override { return presence_; }
  uint64_t version() const override { return 0; }

  void set_presence(Presence presence) { presence_ = presence; }

 private:
  Presence presence_ = Presence::kHere;
};

TEST(kernels_are_told_that_a_peer_has_left_only_when_it_has) {
  for (const Presence gone : {Presence::kLeft, Presence::kLost}) {
    const std::unique_ptr<DeviceRuntime> devices = make_pretended_runtime({});
    Runtime runtime;
    runtime.set_devices(devices.get(), device::pretended_kernels());
    DeviceExecutor executor(*devices, 0);
    LaneMemory memory(runtime, 0, MemberKey{}, 2, std::size_t{64} << 10);
    OpenChannels channels;
    KernelWatch watch(channels, executor, {.mine = 0, .world = 2, .lanes = 1},
                      std::make_shared<FailureLatch>());
    watch.begin(memory);
    watch.expect_replays();  // like a kernel that has not ended
    const uint64_t* const told = memory.lane_args(0, LaneMemory::kEndInGraphs).group.host_word;
    for (int turn = 0; turn < 3; ++turn) watch.poll();
    CHECK_EQ(*told, 0U);
    channels.set_presence(gone);
    watch.poll();
    CHECK_EQ(*told, device::HostWord::departed(1));
  }
}

}  // namespace
}  // namespace fastgpu::test
