// gather() collects a value from every rank of a group during the set-up of its GPUs.
// Threading: a collective call, on a caller's thread.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace fastgpu {

// The name of calls of the set-up of GPUs, in errors.
inline constexpr std::string_view kSetUpOfGpus = "set_up_of_gpus";

// All ranks' `mine`, by rank. Values are plain bytes. `op` names the call in errors.
template <typename Value>
std::vector<Value> gather(Communicator& communicator, std::span<const Value> mine,
                          std::string_view op) {
  std::vector<Value> all(mine.size() * static_cast<std::size_t>(communicator.world()));
  CollectiveCall call;
  call.shape.collective = Collective::kAllGather;
  call.shape.dtype = DType::kUInt8;
  call.shape.count = mine.size_bytes();
  call.op = op;
  call.input = reinterpret_cast<const std::byte*>(mine.data());
  call.data = reinterpret_cast<std::byte*>(all.data());
  call.is_internal = true;
  const auto work = communicator.run(std::move(call));
  communicator.wait(*work, -1);
  return all;
}

}  // namespace fastgpu
