// A point-to-point message: a send or a receive, as its caller gave it. The time-out runs only
// during a wait (Work::start_time): a posted receive may stay idle for days.
// Ownership: shared by the queue and its streams until it ends. Threading: filled by the caller,
// then the polling thread's, but for the Work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/dtype.h"
#include "engine/work.h"

namespace fastgpu {

struct MessageOperation {
  int peer = kNoRank;  // of a receive also kNoRank: from any rank
  uint32_t tag = 0;
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

inline const char* op_of(const MessageOperation& message) {
  return message.is_send ? "send" : "recv";
}

}  // namespace fastgpu
