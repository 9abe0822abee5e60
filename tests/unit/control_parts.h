// Shared by the tests of csrc/control/: a sink that notes every call, channels that do nothing, and
// what becomes of a connection. Threading: the test's alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "control/link.h"
#include "control/registry.h"

namespace fastgpu::test {

struct QuietSender : SendChannel {
  Io try_send(Outgoing&) override { return Io::kBlocked; }
  void hang_up() noexcept override {}
};

struct QuietReceiver : RecvChannel {
  Io peek(FrameHeader&) override { return Io::kBlocked; }
  Io try_recv(Incoming&) override { return Io::kBlocked; }
  void hang_up() noexcept override {}
};

// Notes each call as a line of text, in order.
struct NotingSink : ConnectionSink {
  void on_sender(int peer, int lane, std::unique_ptr<SendChannel>) override {
    heard.push_back("sender " + std::to_string(peer) + " " + std::to_string(lane));
  }
  void on_receiver(int peer, int lane, std::unique_ptr<RecvChannel>) override {
    heard.push_back("receiver " + std::to_string(peer) + " " + std::to_string(lane));
  }
  void on_departed(int peer, bool in_order, const std::string& why) override {
    heard.push_back((in_order ? "left " : "lost ") + std::to_string(peer) + " " + why);
  }
  void on_failed(int peer, const Failure& failure) override {
    heard.push_back("failed " + std::to_string(peer) + " " + failure.message);
    suspect = failure.peer;
  }
  void on_device_segment(int peer, uint32_t segment, uint64_t size_bytes, UniqueFd fd) override {
    heard.push_back("segment " + std::to_string(peer) + " " + std::to_string(segment) + " " +
                    std::to_string(size_bytes) + (fd ? "" : " without memory"));
  }
  void on_device_segment_mapped(int peer, uint32_t segment) override {
    heard.push_back("mapped " + std::to_string(peer) + " " + std::to_string(segment));
  }
  std::vector<std::string> heard;
  int suspect = kNoRank;  // of the last failure
};

// Whether the connection was closed and its peer told why, in these words.
inline bool is_refused(Link& link, const std::string& words) {
  ControlMessage message;
  if (link.receive(message) != Received::kMessage || message.kind != ControlKind::kFail) {
    return false;
  }
  const bool told = message.failure.message.find(words) != std::string::npos;
  return told && link.receive(message) == Received::kClosed;
}

inline bool is_closed(Link& link) {
  ControlMessage message;
  return link.receive(message) == Received::kClosed;
}

}  // namespace fastgpu::test
