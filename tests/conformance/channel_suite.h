// One suite of cases for every channel. A new channel takes part by one line: its name, and how to
// make one. A failing case prints the seed
// to replay it with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "transport/channel.h"

namespace fastgpu::test {

// Both ends of a new channel, in this process, and an owner of things that must outlive them.
struct ChannelEnds {
  std::shared_ptr<void> keeps;  // must outlive the ends
  std::unique_ptr<SendChannel> sender;
  std::unique_ptr<RecvChannel> receiver;
};

// Memory for payloads, at least `size_bytes` of it, aligned to 64 bytes.
using Memory = std::shared_ptr<std::byte>;
Memory plain_memory(std::size_t size_bytes);

struct ChannelParameter {
  std::string name;
  std::function<ChannelEnds()> make;
  // The most payload bytes that the channel accepts before the first receive, plus one frame.
  uint64_t bound_bytes = 0;
  std::function<Memory(std::size_t size_bytes)> allocate = plain_memory;  // for the sender
  bool single_copy = false;  // Outgoing::single_copy of every frame
};

// Registers every case of the suite for this channel, and again under seeded faults.
class ChannelSuite {
 public:
  explicit ChannelSuite(const ChannelParameter& parameter);
};

}  // namespace fastgpu::test
