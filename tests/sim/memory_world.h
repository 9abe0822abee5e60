// N ranks in one thread, on memory channels, for tests of queues and messages. The order in which
// ranks are polled, and the faults, are drawn from a seed. Threading: one test's thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/collective_queue.h"
#include "engine/messages/message_queue.h"
#include "transport/faulty.h"
#include "transport/memory_channel.h"

namespace fastgpu {

inline constexpr int kLanes = 3;
inline constexpr int kMessageLane = kLanes;

struct World {
  // One rank's ends of the channels, made as they are asked for.
  struct Ends : ChannelSource {
    Ends(World& owner, int self) : world(owner), me(self) {}
    SendChannel* sender(int peer, int lane) override { return world.pair(me, peer, lane).first; }
    RecvChannel* receiver(int peer, int lane) override { return world.pair(peer, me, lane).second; }
    bool departed(int) override {
      if (world.before_departed) world.before_departed();
      return true;
    }
    Presence presence(int peer) const override {
      ++world.presence_looks;
      return world.presences[static_cast<std::size_t>(peer)];
    }
    uint64_t version() const override { return world.version; }
    World& world;
    int me;
  };

  World(int count, std::size_t channel_capacity, uint64_t seed_of_case)
      : world(count),
        capacity(channel_capacity),
        seed(seed_of_case),
        random(seed_of_case),
        presences(static_cast<std::size_t>(count), Presence::kHere) {
    for (int rank = 0; rank < world; ++rank) {
      ends.push_back(std::make_unique<Ends>(*this, rank));
      latches.push_back(std::make_shared<FailureLatch>());
      queues.push_back(std::make_unique<CollectiveQueue>(*ends.back(), kLanes, latches.back()));
      messages.push_back(
          std::make_unique<MessageQueue>(*ends.back(), world, kMessageLane, latches.back()));
    }
  }

  std::pair<SendChannel*, RecvChannel*> pair(int from, int to, int lane) {
    const auto key = std::make_tuple(from, to, lane);
    auto found = channels.find(key);
    if (found == channels.end()) {
      FaultPlan faults = plan;
      faults.seed = seed + channels.size();
      auto ends_of = make_memory_channel(capacity, 24);
      found = channels
                  .emplace(key, ChannelPair{make_faulty(std::move(ends_of.first), faults),
                                            make_faulty(std::move(ends_of.second), faults)})
                  .first;
    }
    return {found->second.first.get(), found->second.second.get()};
  }

  // Makes `rank` depart after its last message, as seen by all other ranks.
  void depart(int rank, Presence how) {
    presences[static_cast<std::size_t>(rank)] = how;
    ++version;
    for (int to = 0; to < world; ++to) {
      if (to != rank) pair(rank, to, kMessageLane).first->hang_up();
    }
  }

  // Polls ranks in a drawn order until nothing is pending, or for `passes` passes.
  bool run(int passes) {
    std::vector<std::size_t> order(static_cast<std::size_t>(world));
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (int pass = 0; pass < passes; ++pass) {
      std::shuffle(order.begin(), order.end(), random);
      bool busy = false;
      for (const std::size_t rank : order) {
        if (queues[rank]->busy() && !queues[rank]->poll()) queues[rank]->expire(now_ns());
        if (messages[rank]->wants_idle_poll() || messages[rank]->busy()) messages[rank]->poll();
        busy |= queues[rank]->busy() || messages[rank]->busy();
      }
      if (!busy) return true;
    }
    return false;
  }

  const int world;
  const std::size_t capacity;
  const uint64_t seed;
  FaultPlan plan;
  std::mt19937_64 random;
  std::vector<Presence> presences;
  uint64_t version = 1;
  int presence_looks = 0;
  std::function<void()> before_departed;  // called just before a rank is reported as gone
  std::map<std::tuple<int, int, int>, ChannelPair> channels;
  std::vector<std::unique_ptr<Ends>> ends;
  std::vector<std::shared_ptr<FailureLatch>> latches;
  std::vector<std::unique_ptr<CollectiveQueue>> queues;
  std::vector<std::unique_ptr<MessageQueue>> messages;
};

}  // namespace fastgpu
