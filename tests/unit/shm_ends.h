// Both ends of a shared-memory ring, in one process, with their doorbells.
// Threading: the test's thread.
#pragma once

#include <unistd.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "transport/shm/ring.h"

namespace fastgpu::test {

inline UniqueFd copy_of(const UniqueFd& fd) { return UniqueFd(::dup(fd.get())); }

inline std::shared_ptr<Doorbell> make_bell() {
  return std::make_shared<Doorbell>(Doorbell::create());
}

// Whether the owner of the bell was woken since this was called last.
inline bool rang(Doorbell& bell) {
  uint64_t rings = 0;
  const bool woken = ::read(bell.event_fd(), &rings, sizeof rings) > 0;
  bell.finish_sleep();
  bell.prepare_sleep();
  return woken;
}

struct Ends {
  explicit Ends(const ShmRingConfig& config, const SymmetricHeap* heap = nullptr,
                const std::shared_ptr<ShmEnd>& from = make_shm_end(),
                const std::shared_ptr<ShmEnd>& to = make_shm_end())
      : ring(create_shm_ring(config)),
        sender(make_shm_sender(copy_of(ring), receiver_bell, from, heap,
                               [this](uint32_t segment) { shared.push_back(segment); })),
        receiver(make_shm_receiver(copy_of(ring), sender_bell, to, segments, nullptr, ::getpid())) {
    receiver_bell->prepare_sleep();
    sender_bell->prepare_sleep();
  }

  bool send(std::span<const std::byte> payload) {
    Outgoing frame{.header = {.size_bytes = payload.size()}, .payload = payload.data()};
    sender->try_send(frame);
    return frame.done;
  }
  bool receive(std::span<std::byte> target, CopyKernel copy = nullptr) {
    FrameHeader header;
    Incoming incoming{
        .target = target.data(), .size_bytes = target.size(), .sink = {.store = copy}};
    if (receiver->peek(header) == Io::kMoved) receiver->try_recv(incoming);
    return incoming.done;
  }

  std::vector<uint32_t> shared;
  std::shared_ptr<Doorbell> sender_bell = make_bell();
  std::shared_ptr<Doorbell> receiver_bell = make_bell();
  std::shared_ptr<PeerSegments> segments = std::make_shared<PeerSegments>();
  UniqueFd ring;
  std::unique_ptr<SendChannel> sender;
  std::unique_ptr<RecvChannel> receiver;
};

}  // namespace fastgpu::test
