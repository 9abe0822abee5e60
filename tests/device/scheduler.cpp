#include "scheduler.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace fastgpu::simt {

constinit thread_local MachineState* machine_state = nullptr;

std::vector<Stack>& spare_stacks() {
  struct Spare {
    ~Spare() {
      for (Stack& stack : stacks) stack.context.end();
    }
    std::vector<Stack> stacks;
  };
  thread_local Spare spare;
  return spare.stacks;
}

void give_up(const char* why) {
  std::fprintf(stderr, "simt: %s (seed %llu, turn %llu)\n", why,
               static_cast<unsigned long long>(machine_state->options.seed),
               static_cast<unsigned long long>(machine_state->turns));
  std::_Exit(3);
}

namespace {

void run_thread() {
  MachineState& state = *machine_state;
  Thread& me = *state.current;
  Kernel& kernel = *me.block->kernel;
  kernel.begin.acquire();
  kernel.body();
  if (me.block->barrier.arrived != 0)
    give_up("a thread ended, and others of its block wait for it");
  kernel.end.release();
  me.ended = true;
}

// The life of a fiber: one thread after another, also of different machines.
[[noreturn]] void run_threads() {
  for (;;) {
    machine_state->fibers.entered();
    run_thread();
    machine_state->fibers.leave_ended(machine_state->current->stack, machine_state->context);
  }
}

}  // namespace

Stack MachineState::take_stack(Stream& stream) {
  std::vector<Stack>& from = stream.stacks.empty() ? spare_stacks() : stream.stacks;
  if (from.empty()) return Stack::make();
  Stack stack = std::move(from.back());
  from.pop_back();
  return stack;
}

void MachineState::enter(Thread& thread) {
  current = &thread;
  ++turns;
  fibers.enter(thread.stack, run_threads);
  current = nullptr;
  if (thread.ended) end_thread(thread);
}

bool MachineState::arrive(Barrier& barrier, bool mine, bool ordered) {
  const unsigned turn = barrier.turn % 2;
  if (ordered) barrier.keys[turn].release();
  barrier.any[turn] = barrier.any[turn] || mine;
  if (++barrier.arrived < barrier.expected) {
    barrier.waiting.push_back(current);
    leave();
  } else {
    barrier.arrived = 0;
    ++barrier.turn;
    barrier.any[barrier.turn % 2] = false;
    std::vector<Thread*>& ready = runnable(*current).ready;
    for (Thread* thread : barrier.waiting) ready.push_back(thread);
    barrier.waiting.clear();
  }
  if (ordered) barrier.keys[turn].acquire();
  return barrier.any[turn];
}

void MachineState::begin_block(Kernel& kernel) {
  auto block = std::make_unique<Block>();
  block->kernel = &kernel;
  block->index = kernel.begun++;
  block->running = kernel.grid.threads;
  block->barrier.expected = kernel.grid.threads;
  block->barrier.waiting.reserve(kernel.grid.threads);
  block->warps.resize((kernel.grid.threads + kWarpSize - 1) / kWarpSize);
  unsigned left = kernel.grid.threads;
  for (Warp& warp : block->warps) {
    warp.barrier.expected = std::min(kWarpSize, left);
    warp.barrier.waiting.reserve(kWarpSize);
    left -= warp.barrier.expected;
  }
  block->shared = std::make_unique_for_overwrite<char[]>(kSharedBytes);
  block->shared_variables.reserve(kSharedVariables);
  running += kernel.grid.threads;
  for (Runnable* threads : {&fast, &slow}) {
    threads->ready.reserve(running);
    threads->pausing.reserve(running);
  }
  for (unsigned index = 0; index < kernel.grid.threads; ++index) {
    auto thread = std::make_unique<Thread>(block.get(), index, take_stack(*kernel.stream));
    runnable(*thread).ready.push_back(thread.get());
    block->threads.push_back(std::move(thread));
  }
  if (kernel.occupies_gpu) ++resident[kernel.stream->device];
  kernel.blocks.push_back(std::move(block));
}

void MachineState::end_thread(Thread& thread) {
  Block& block = *thread.block;
  Kernel& kernel = *block.kernel;
  Stream& stream = *kernel.stream;
  stream.stacks.push_back(std::move(thread.stack));
  --running;
  if (--block.running != 0) return;
  if (kernel.occupies_gpu) --resident[stream.device];
  if (++kernel.ended != kernel.grid.blocks) return;
  stream.context.enter();
  kernel.end.acquire();
  context.enter();
  stream.running.reset();
}

// Begins a block, or takes the next item. Returns whether it did.
bool MachineState::advance(Stream& stream) {
  if (stream.running != nullptr) {
    Kernel& kernel = *stream.running;
    const bool full = kernel.occupies_gpu && resident[stream.device] >= options.resident_blocks;
    if (kernel.begun == kernel.grid.blocks || full) return false;
    begin_block(kernel);
    return true;
  }
  if (stream.items.empty()) return false;
  Item& item = *stream.items.front();
  if (item.kind == ItemKind::kWait && item.record != nullptr && !item.record->passed &&
      !has(MachineFault::kEventIsNotAwaited)) {
    return false;
  }
  stream.context.enter();
  item.enqueued.acquire();
  if (item.kind == ItemKind::kWait) {
    if (item.record != nullptr && item.record->passed) item.record->key.acquire();
  } else if (item.kind == ItemKind::kRecord) {
    item.record->key.release();
    item.record->passed = true;
  } else {
    stream.running = std::make_unique<Kernel>();
    stream.running->stream = &stream;
    stream.running->body = std::move(item.body);
    stream.running->grid = item.grid;
    stream.running->occupies_gpu = item.kind == ItemKind::kKernel;
    stream.running->begin.release();
  }
  context.enter();
  stream.items.pop_front();
  ++turns;
  return true;
}

bool MachineState::advance_any() {
  const std::size_t first = random.below(streams.size());
  for (std::size_t i = 0; i < streams.size(); ++i) {
    Stream& stream = *streams[(first + i) % streams.size()];
    if (stream.slow && !fast.empty() && !random.one_in(16)) continue;
    if (advance(stream)) return true;
  }
  return false;
}

Thread* MachineState::pick() {
  const bool from_slow = fast.empty() || (!slow.empty() && random.one_in(16));
  Runnable& threads = from_slow ? slow : fast;
  const bool look = threads.ready.empty() || (!threads.pausing.empty() && random.one_in(16));
  std::vector<Thread*>& from = look ? threads.pausing : threads.ready;
  std::swap(from[random.below(from.size())], from.back());
  Thread* const thread = from.back();
  from.pop_back();
  return thread;
}

// Returns false if nothing can move.
bool MachineState::step() {
  if (fast.ready.empty() || random.one_in(8)) {
    if (advance_any()) return true;
  }
  if (fast.empty() && slow.empty()) return false;
  enter(*pick());
  return true;
}

void MachineState::enqueue(Stream* stream, std::unique_ptr<Item> item) {
  item->enqueued.release();
  const IgnoredAccesses ignored;
  stream->items.push_back(std::move(item));
}

}  // namespace fastgpu::simt
