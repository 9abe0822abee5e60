// A point-to-point message: a send, a put or a receive, as its caller gave it. The time-out runs
// only during a wait (Work::start_time): a posted receive may stay idle for days.
// Ownership: shared by the queue and its streams until it ends. Threading: filled by the caller,
// then the polling thread's, but for the Work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "base/dtype.h"
#include "engine/work.h"

namespace fastgpu {

struct MessageOperation {
  int peer = kNoRank;  // of a receive also kNoRank: from any rank
  uint32_t tag = 0;
  std::string_view op;  // the user's name of the call, if it is not send or recv; static storage
  // A put writes the peer's window `tag` from here on, and matches no receive.
  std::optional<uint64_t> put_offset_bytes;
  std::byte* data = nullptr;  // a send only reads it
  DType dtype = DType::kUInt8;
  uint64_t size_bytes = 0;
  std::function<void()> epilogue;    // runs when the message has moved, before the work completes
  std::shared_ptr<void> keep_alive;  // the caller's memory
  std::shared_ptr<Work> work;

  // The queue's.
  bool is_send = false;
  uint64_t moved_bytes = 0;
};

using MessagePtr = std::shared_ptr<MessageOperation>;

inline std::string_view op_of(const MessageOperation& message) {
  if (!message.op.empty()) return message.op;
  return message.is_send ? "send" : "recv";
}

}  // namespace fastgpu
