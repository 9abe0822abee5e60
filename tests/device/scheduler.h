// The state of a Machine: its streams, kernels and threads, and the choice of who runs next.
// run_kernel() is a machine with one stream, in real time.
//
// Files that include this are compiled without sanitizers (see fiber.h). Containers hold types of
// these files only: the linker keeps one copy of a template's function, and might keep another
// file's instrumented one. Containers that fibers change never grow there; begin_block() reserves
// their memory. Threading: each thread has a state and stacks of its own.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fiber.h"
#include "kernels/cuda/simt.h"
#include "simt_machine.h"

namespace fastgpu::simt {

inline constexpr std::size_t kSharedBytes = 16 * 1024;
inline constexpr std::size_t kSharedVariables = 16;
inline constexpr std::size_t kMaxDevices = 16;

struct Kernel;
struct Block;

struct Random {  // SplitMix64
  uint64_t state = 0;
  uint64_t next() {
    uint64_t bits = state += 0x9e3779b97f4a7c15;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
    return bits ^ (bits >> 31);
  }
  bool one_in(uint64_t n) { return next() % n == 0; }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }
};

struct Thread {
  Thread(Block* owner, unsigned number, Stack taken)
      : block(owner), index(number), stack(std::move(taken)) {}
  Block* block;
  unsigned index;
  Stack stack;
  uint64_t barriers = 0;
  bool ended = false;
};

// A thread may arrive for the next turn before all have left this one, hence two of each.
struct Barrier {
  unsigned expected = 0;
  unsigned arrived = 0;
  unsigned turn = 0;
  OrderKey keys[2];
  bool any[2] = {};
  std::vector<Thread*> waiting;
};

struct Warp {
  Barrier barrier;
  uint32_t values[kWarpSize] = {};
};

struct SharedVariable {
  const void* key;
  std::size_t offset;
};

struct Block {
  Kernel* kernel = nullptr;
  unsigned index = 0;
  unsigned running = 0;  // threads
  std::vector<std::unique_ptr<Thread>> threads;
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<char[]> shared;
  std::vector<SharedVariable> shared_variables;
  std::size_t shared_used = 0;
};

struct Kernel {
  Stream* stream = nullptr;
  std::function<void()> body;
  Grid grid;
  bool occupies_gpu = true;  // a copy does not
  unsigned begun = 0;        // blocks
  unsigned ended = 0;
  std::vector<std::unique_ptr<Block>> blocks;
  OrderKey begin;
  OrderKey end;
};

struct Record {
  bool passed = false;
  OrderKey key;
};

enum class ItemKind : uint8_t { kKernel, kCall, kRecord, kWait };

struct Item {
  ItemKind kind = ItemKind::kCall;
  std::function<void()> body;
  Grid grid;
  Record* record = nullptr;
  OrderKey enqueued;
};

struct StoredWord {
  int device;
  Scope scope;
};

// Threads that may run. Those that pause look at their word again only now and then.
struct Runnable {
  std::vector<Thread*> ready;
  std::vector<Thread*> pausing;
  bool empty() const { return ready.empty() && pausing.empty(); }
};

struct Event {
  std::vector<std::unique_ptr<Record>> records;
};

struct Stream {
  int device = 0;
  bool slow = false;
  std::deque<std::unique_ptr<Item>> items;
  std::unique_ptr<Kernel> running;
  Context context = Context::make();
  OrderKey synchronized;
  // Of ended threads. Only for this stream: the sanitizer would order another one after them.
  std::vector<Stack> stacks;
};

struct MachineState {
  MachineOptions options;
  Random random;
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<std::unique_ptr<Event>> events;
  Runnable fast;
  Runnable slow;
  std::size_t running = 0;  // threads
  unsigned resident[kMaxDevices] = {};
  std::unordered_map<const void*, StoredWord> stored;
  Thread* current = nullptr;  // nullptr: the host or the scheduler runs
  Context context = Context::make();
  Switch fibers;
  uint64_t turns = 0;
  std::size_t pauses = 0;  // in real time, since the processor was left to others

  Runnable& runnable(const Thread& thread) {
    return thread.block->kernel->stream->slow ? slow : fast;
  }
  bool has(MachineFault fault) const { return options.fault == fault; }
  Stack take_stack(Stream& stream);
  void leave() { fibers.leave(current->stack, context); }
  void enter(Thread& thread);
  bool arrive(Barrier& barrier, bool mine, bool ordered);
  void begin_block(Kernel& kernel);
  void end_thread(Thread& thread);
  bool advance(Stream& stream);
  bool advance_any();
  Thread* pick();
  bool step();
  void enqueue(Stream* stream, std::unique_ptr<Item> item);
};

// Of the calling thread's machine.
extern constinit thread_local MachineState* machine_state;
// Of earlier machines of the calling thread: a context takes the thread sanitizer half a megabyte.
std::vector<Stack>& spare_stacks();

[[noreturn]] void give_up(const char* why);

}  // namespace fastgpu::simt
