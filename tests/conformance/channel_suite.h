// What every channel must do, as one suite of cases. A channel takes part by one line: a name and
// how to make a fresh one. Seeds are printed when a case fails, and replay it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "transport/channel.h"

namespace fastgpu::test {

// Both ends of one fresh channel, in this process, and what must outlive them.
struct ChannelEnds {
  std::shared_ptr<void> keeps;
  std::unique_ptr<SendChannel> sender;
  std::unique_ptr<RecvChannel> receiver;
};

// Memory for payloads, at least `size_bytes` of it, aligned to 64 bytes.
using Memory = std::shared_ptr<std::byte>;
Memory plain_memory(std::size_t size_bytes);

struct ChannelParameter {
  std::string name;
  std::function<ChannelEnds()> make;
  // The most payload that it takes in while nobody receives (one frame's worth of slack included).
  uint64_t bound_bytes = 0;
  std::function<Memory(std::size_t size_bytes)> allocate = plain_memory;  // for the sender
  bool single_copy = false;  // the payloads do (Outgoing::stays)
};

// Registers every case of the suite for this channel, and again for it under seeded faults.
class ChannelSuite {
 public:
  explicit ChannelSuite(const ChannelParameter& parameter);
};

}  // namespace fastgpu::test
