#include "simt_machine.h"

#include <utility>

#include "scheduler.h"

namespace fastgpu::simt {

Machine::Machine(const MachineOptions& options) {
  const IgnoredAccesses ignored;
  state_ = std::make_unique<MachineState>();
  state_->options = options;
  state_->random.state = options.seed;
  machine_state = state_.get();
  const Context host = Context::current();
  state_->context.enter();
  IgnoredAccesses::begin();  // for good
  host.enter();
}

Machine::~Machine() {
  const IgnoredAccesses ignored;
  machine_state = nullptr;
  if (state_->running != 0) {
    [[maybe_unused]] const MachineState* const in_use = state_.release();  // its stacks are
    return;
  }
  const Context host = Context::current();
  state_->context.enter();
  IgnoredAccesses::end();
  host.enter();
  for (auto& stream : state_->streams) {
    for (Stack& stack : stream->stacks) spare_stacks().push_back(std::move(stack));
    stream->context.end();
  }
  state_->context.end();
}

Stream* Machine::make_stream(int device) {
  const IgnoredAccesses ignored;
  if (device < 0 || static_cast<std::size_t>(device) >= kMaxDevices) give_up("no such device");
  state_->streams.push_back(std::make_unique<Stream>());
  Stream* const stream = state_->streams.back().get();
  stream->device = device;
  if (state_->options.slow_stream && state_->random.one_in(state_->streams.size())) {
    for (auto& other : state_->streams) other->slow = other.get() == stream;
  }
  return stream;
}

Event* Machine::make_event() {
  const IgnoredAccesses ignored;
  state_->events.push_back(std::make_unique<Event>());
  return state_->events.back().get();
}

namespace {

std::unique_ptr<Item> make_item(ItemKind kind) {
  const IgnoredAccesses ignored;
  auto item = std::make_unique<Item>();
  item->kind = kind;
  return item;
}

}  // namespace

void Machine::launch(Stream* stream, Grid grid, std::function<void()> kernel) {
  auto item = make_item(ItemKind::kKernel);
  item->body = std::move(kernel);
  item->grid = grid;
  state_->enqueue(stream, std::move(item));
}

void Machine::call(Stream* stream, std::function<void()> function) {
  auto item = make_item(ItemKind::kCall);
  item->body = std::move(function);
  item->grid = {.blocks = 1, .threads = 1};
  state_->enqueue(stream, std::move(item));
}

void Machine::record(Stream* stream, Event* event) {
  auto item = make_item(ItemKind::kRecord);
  {
    const IgnoredAccesses ignored;
    event->records.push_back(std::make_unique<Record>());
    item->record = event->records.back().get();
  }
  state_->enqueue(stream, std::move(item));
}

void Machine::wait(Stream* stream, Event* event) {
  auto item = make_item(ItemKind::kWait);
  if (!event->records.empty()) item->record = event->records.back().get();
  state_->enqueue(stream, std::move(item));
}

void Machine::synchronize(Stream* stream) {
  const Context host = Context::current();
  state_->context.enter();
  while (stream->running != nullptr || !stream->items.empty()) {
    if (!state_->step()) give_up("nothing can move, and a stream is not empty");
  }
  stream->context.enter();
  stream->synchronized.release();
  host.enter();
  stream->synchronized.acquire();
}

bool Machine::passed(const Event* event) const {
  if (event->records.empty()) return true;
  Record& record = *event->records.back();
  if (record.passed) record.key.acquire();
  return record.passed;
}

void Machine::run(uint64_t turns) {
  const Context host = Context::current();
  state_->context.enter();
  for (const uint64_t end = state_->turns + turns; state_->turns < end && state_->step();) {
  }
  host.enter();
}

uint64_t Machine::turns() const { return state_->turns; }

void run_kernel(Grid grid, uint64_t seed, const std::function<void()>& kernel) {
  // The machine stays for the thread's later kernels, and outer machines are there again
  // afterwards.
  MachineState* const outer = machine_state;
  spare_stacks();  // made first, so that it outlives the machine
  struct Kept {
    Machine machine{{.in_real_time = true}};
    Stream* stream = machine.make_stream(0);
  };
  thread_local Kept kept;
  machine_state = kept.machine.state_.get();
  machine_state->random.state = seed;
  kept.machine.launch(kept.stream, grid, kernel);
  kept.machine.synchronize(kept.stream);
  machine_state = outer;
}

}  // namespace fastgpu::simt
