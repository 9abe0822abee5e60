// The two kinds of calls on a communicator: collectives and messages (puts are messages, too).
// Ownership: callers keep the memory alive through `keep_alive`, which is released when the
// operation ends. Thread safety: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/call.h"
#include "base/error.h"
#include "codec/residual.h"
#include "comm/device_end.h"
#include "device/runtime.h"

namespace fastgpu {

// The sizes of input and data follow from the shape: see PlanRequest (plan/build.h).
struct CollectiveCall {
  CallShape shape;
  std::string_view op = {};    // name of the user's call, if this is a part of it; static storage
  double premul_factor = 1.0;  // of PREMUL_SUM
  const std::byte* input = nullptr;
  std::byte* data = nullptr;
  // With a codec: of `count` elements. The call adds them to the data, and leaves its own rounding
  // errors here for the next call.
  Residual residual = {};
  // With int8 or int4: encode with stochastic rounding. Every call and rank needs another key.
  std::optional<uint64_t> random_key = {};
  std::vector<uint64_t> send_counts;  // for all_to_all: elements by rank; may be empty
  std::vector<uint64_t> recv_counts;
  int64_t timeout_ms = -1;   // negative: the communicator's
  bool synchronous = true;   // the caller waits at once: it runs the operation itself if it can
  bool is_internal = false;  // a call of a group's set-up, which gets no number
  // For memory of a GPU. The work runs after all work that `stream` has been given, and the Work is
  // done when it is enqueued.
  std::optional<StreamHandle> stream = {};
  std::shared_ptr<DeviceEnd> device_end;  // may be empty
  // Run before the operation reads anything, and after it wrote everything, on whatever thread runs
  // the operation. They pack and unpack; they must not block, nor call into the communicator.
  std::function<void()> prologue;
  std::function<void()> epilogue;
  std::shared_ptr<void> keep_alive;
};

inline constexpr int kAnySource = kNoRank;

struct MessageCall {
  int peer = kAnySource;  // kAnySource: receives only
  uint32_t tag = 0;
  std::string_view op = {};  // the user's name of the call, if not send or recv; static storage
  // Of a send: makes it a put into the peer's window `tag`, from here on.
  std::optional<uint64_t> put_offset_bytes = {};
  std::byte* data = nullptr;    // a send only reads it
  DType dtype = DType::kUInt8;  // must be the same on both sides, as must the size
  uint64_t size_bytes = 0;
  int64_t timeout_ms = -1;  // counts while somebody waits; negative: the communicator's
  bool synchronous = true;
  std::function<void()> epilogue;
  std::shared_ptr<void> keep_alive;
  std::optional<StreamHandle> stream = {};  // for memory of a GPU, as of a CollectiveCall
  std::shared_ptr<DeviceEnd> device_end;
};

}  // namespace fastgpu
