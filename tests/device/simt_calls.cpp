// The functions that simt.h calls on the CPU.
#include <sched.h>

#include <chrono>

#include "scheduler.h"

namespace fastgpu::simt {

namespace machine {

unsigned thread_index() { return machine_state->current->index; }
unsigned block_size() { return machine_state->current->block->kernel->grid.threads; }
unsigned block_index() { return machine_state->current->block->index; }
unsigned grid_size() { return machine_state->current->block->kernel->grid.blocks; }
uint64_t now() {
  if (!machine_state->options.in_real_time) return machine_state->turns;
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::nanoseconds(since).count());
}

bool sync_block_or(bool mine) {
  MachineState& state = *machine_state;
  Thread& me = *state.current;
  // The threads of a block skip the same barriers.
  const uint64_t number = me.barriers++;
  if (state.has(MachineFault::kSkippedBarriers)) {
    Random draw{state.options.seed + uint64_t{me.block->index} * 1000 + number};
    if (draw.one_in(4)) return mine;
  }
  return state.arrive(me.block->barrier, mine, !state.has(MachineFault::kUnorderedBarriers));
}

uint32_t shuffle_xor(uint32_t value, unsigned mask) {
  MachineState& state = *machine_state;
  Thread& me = *state.current;
  Warp& warp = me.block->warps[me.index / kWarpSize];
  const unsigned lane = me.index % kWarpSize;
  warp.values[lane] = value;
  state.arrive(warp.barrier, false, false);
  const bool keeps = mask == 1 && state.has(MachineFault::kShuffleKeepsOwn);
  const uint32_t other = warp.values[keeps ? lane : lane ^ mask];
  state.arrive(warp.barrier, false, false);
  return other;
}

void may_switch() {
  MachineState* const state = machine_state;
  if (state == nullptr || state->current == nullptr || !state->random.one_in(3)) return;
  state->runnable(*state->current).ready.push_back(state->current);
  state->leave();
}

void pause() {
  MachineState& state = *machine_state;
  Runnable& threads = state.runnable(*state.current);
  threads.pausing.push_back(state.current);
  // All threads have polled about once. Another thread or process stores their words.
  if (state.options.in_real_time && threads.ready.empty() &&
      ++state.pauses >= threads.pausing.size()) {
    state.pauses = 0;
    ::sched_yield();
  }
  state.leave();
}

void* shared_memory(const void* key, std::size_t size_bytes) {
  Block& block = *machine_state->current->block;
  for (const SharedVariable& variable : block.shared_variables) {
    if (variable.key == key) return block.shared.get() + variable.offset;
  }
  const std::size_t offset = (block.shared_used + 15) / 16 * 16;
  if (offset + size_bytes > kSharedBytes || block.shared_variables.size() == kSharedVariables) {
    give_up("too much shared memory");
  }
  block.shared_used = offset + size_bytes;
  block.shared_variables.push_back({key, offset});
  return block.shared.get() + offset;
}

bool releases(const void* word, Scope scope) {
  MachineState* const state = machine_state;
  if (state == nullptr || state->current == nullptr || state->options.in_real_time) return true;
  if (state->has(MachineFault::kReleaseForOneGpu)) scope = Scope::kDevice;
  const IgnoredAccesses ignored;
  state->stored[word] = {state->current->block->kernel->stream->device, scope};
  return !state->has(MachineFault::kRelaxedRelease);
}

bool acquires(const void* word, Scope scope) {
  MachineState* const state = machine_state;
  if (state == nullptr || state->current == nullptr || state->options.in_real_time) return true;
  if (state->has(MachineFault::kRelaxedAcquire)) return false;
  const auto found = state->stored.find(word);
  if (found == state->stored.end()) return true;
  const StoredWord& stored = found->second;
  return stored.device == state->current->block->kernel->stream->device ||
         (scope == Scope::kSystem && stored.scope == Scope::kSystem);
}

void expect_aligned(const void* pointer, std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignment != 0) {
    give_up("misaligned address");
  }
}

}  // namespace machine
}  // namespace fastgpu::simt
