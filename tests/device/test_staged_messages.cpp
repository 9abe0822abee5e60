// Messages of tensors on pretended GPUs, through pinned memory.
#include <atomic>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "gpu_rank.h"

namespace fastgpu::test {
namespace {

// The peer has sent its message by then, so it must not fail.
TEST(a_rank_may_leave_while_its_gpu_copies_what_it_received) {
  MemoryStore store;
  std::atomic<bool> is_taken{false};
  with_threads(2, [&](int me) {
    auto rank = std::make_unique<GpuRank>(
        PretendedOptions{.seed = static_cast<uint64_t>(me) + 1, .most_delay_us = 20'000}, Options{},
        me, 2, store);
    MessageCall call;
    call.peer = 1 - me;
    call.size_bytes = 4000;
    call.stream = rank->stream();
    call.data = rank->upload(drawn_floats(4000, 3), true);
    if (me == 0) {
      rank->communicator().wait(*rank->communicator().recv(call), -1);
      rank.reset();  // while the copy is pending
      is_taken = true;
      return;
    }
    rank->communicator().wait(*rank->communicator().send(call), -1);
    while (!is_taken) std::this_thread::yield();
    CHECK(rank->communicator().failure() == nullptr);
  });
}

TEST(messages_between_gpus_arrive_unchanged) {
  for (const char* transport : {"auto", "tcp"}) {
    with_gpu_ranks(2, options_of("auto", transport), {}, [](GpuRank& rank) {
      const int me = rank.communicator().rank();
      for (const std::size_t size_bytes : {0, 12, 300'000}) {
        const std::vector<std::byte> sent = drawn_floats(size_bytes, 5 + size_bytes);
        MessageCall call;
        call.peer = 1 - me;
        call.size_bytes = size_bytes;
        call.stream = rank.stream();
        call.device_end = std::make_shared<DeviceEnd>();
        call.data = rank.upload(me == 0 ? sent : std::vector<std::byte>(size_bytes), true);
        const auto work = me == 0 ? rank.communicator().send(call) : rank.communicator().recv(call);
        rank.communicator().wait(*work, -1);
        call.device_end->finish_before(rank.stream());
        CHECK(rank.download(call.data, size_bytes) == sent);
      }
    });
  }
}

// The GPU never copies the message. The time-out then blames the sender's own GPU, on both ranks.
TEST(a_send_that_its_gpu_never_copies_times_out) {
  with_gpu_ranks(2, {}, {.most_delay_us = 0}, [](GpuRank& rank) {
    MessageCall call;
    call.peer = 1 - rank.communicator().rank();
    call.size_bytes = 4000;
    call.timeout_ms = 200;
    call.stream = rank.stream();
    call.data = rank.upload(drawn_floats(4000, 3), true);
    if (rank.communicator().rank() == 1) {
      call.timeout_ms = -1;
      CHECK_THROWS(rank.communicator().wait(*rank.communicator().recv(call), -1),
                   CollectiveTimeoutError, "this rank's GPU has not done the work");
      return;
    }
    const Gate gate(rank.stream());
    call.synchronous = false;
    const auto work = rank.communicator().send(call);
    CHECK_THROWS(rank.communicator().wait(*work, -1), CollectiveTimeoutError,
                 "this rank's GPU has not done the work before the message to rank 1");
  });
}

// On both ranks. They are connected by then, because their set-up would fail, too.
TEST(a_gpu_that_fails_ends_messages) {
  MemoryStore store;
  std::latch complete(2);
  with_threads(2, [&](int me) {
    GpuRank rank({.fault = me == 0 ? RuntimeFault::kDeviceFails : RuntimeFault::kNone}, Options{},
                 me, 2, store);
    complete.arrive_and_wait();
    MessageCall call;
    call.peer = 1 - me;
    call.size_bytes = 4000;
    call.stream = rank.stream();
    call.data = rank.upload(drawn_floats(4000, 3), true);
    call.synchronous = false;
    const auto run = [&] {  // the call itself raises if the group has failed by then
      Communicator& group = rank.communicator();
      group.wait(me == 0 ? *group.send(call) : *group.recv(call), -1);
    };
    CHECK_THROWS(run(), CommError, "it has failed");
  });
}

}  // namespace
}  // namespace fastgpu::test
