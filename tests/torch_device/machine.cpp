#include "machine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <utility>

#include "base/error.h"
#include "device/pretended_runtime.h"

namespace fastgpu::test {
namespace {

constexpr std::size_t kSegmentBytes = std::size_t{16} << 20;
constexpr std::size_t kPoolStreams = 8;

int64_t number_from(const char* variable, int64_t otherwise) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing of this module writes the environment
  const char* const text = std::getenv(variable);
  if (text == nullptr) return otherwise;
  char* end = nullptr;
  const int64_t number = std::strtoll(text, &end, 10);
  if (end == text || *end != '\0' || number < 0) {
    raise(ErrorKind::kInvalidArgument,
          std::string(variable) + "=" + text + ": expected a number of at least 0");
  }
  return number;
}

}  // namespace

Machine& Machine::of_process() {
  static auto* const machine = new Machine;  // never destroyed: its threads may outlive statics
  return *machine;
}

Machine::Machine() : devices_(kDevices) {
  PretendedOptions options;
  options.devices = kDevices;
  options.seed = static_cast<uint64_t>(number_from("PRETENDED_SEED", 1));
  options.most_delay_us = static_cast<int>(number_from("PRETENDED_DELAY_US", 30));
  runtime_ = make_pretended_runtime(options);
  for (int i = 0; i < kDevices; ++i) {
    Device& made = device(i);
    made.heap = std::make_unique<DeviceHeap>(*runtime_, i, kSegmentBytes);
    made.reaper = runtime_->make_stream(i);
    made.streams.push_back(runtime_->make_stream(i));
  }
}

Machine::Device& Machine::device(int number) {
  if (number < 0 || number >= kDevices) {
    raise(ErrorKind::kInvalidArgument, "there is no device pretended:" + std::to_string(number) +
                                           "; there are pretended:0 to " +
                                           std::to_string(kDevices - 1));
  }
  return devices_[static_cast<std::size_t>(number)];
}

StreamHandle Machine::stream(int number_of_device, int64_t number) {
  Device& owner = device(number_of_device);
  const std::lock_guard lock(owner.mutex);
  return owner.streams.at(static_cast<std::size_t>(number));
}

int64_t Machine::make_stream(int number_of_device) {
  Device& owner = device(number_of_device);
  const StreamHandle made = runtime_->make_stream(number_of_device);
  const std::lock_guard lock(owner.mutex);
  owner.streams.push_back(made);
  return static_cast<int64_t>(owner.streams.size()) - 1;
}

int64_t Machine::take_pool_stream(int number_of_device) {
  Device& owner = device(number_of_device);
  std::size_t place = 0;
  {
    const std::lock_guard lock(owner.mutex);
    place = owner.taken++ % kPoolStreams;
    if (place < owner.pool.size()) return owner.pool[place];
  }
  const int64_t made = make_stream(number_of_device);
  const std::lock_guard lock(owner.mutex);
  owner.pool.push_back(made);
  return made;
}

void Machine::run(StreamHandle stream, std::function<void()> work) {
  run_on_host(stream, [this, work = std::move(work)] {
    try {
      work();
    } catch (const std::exception& error) {
      const std::lock_guard lock(failure_mutex_);
      if (failure_.empty()) failure_ = error.what();
    }
  });
}

void Machine::order(StreamHandle earlier, StreamHandle later) {
  const EventHandle event = runtime_->make_event(earlier.device);
  runtime_->record(event, earlier);
  runtime_->wait(later, event);
  runtime_->destroy(event);
}

void Machine::synchronize(StreamHandle stream) {
  runtime_->synchronize(stream);
  raise_failure();
}

void Machine::synchronize_device(int number) {
  Device& owner = device(number);
  std::vector<StreamHandle> streams;
  {
    const std::lock_guard lock(owner.mutex);
    streams = owner.streams;
  }
  for (const StreamHandle stream : streams) runtime_->synchronize(stream);
  raise_failure();
}

void Machine::finish() noexcept {
  for (int number = 0; number < kDevices; ++number) {
    try {
      synchronize_device(number);
    } catch (const std::exception& error) {
      std::cerr << "work of pretended:" << number << " has failed: " << error.what() << '\n';
    }
  }
  await_freed();
}

void Machine::await_freed() {
  for (const Device& each : devices_) runtime_->synchronize(each.reaper);
}

void Machine::raise_failure() {
  std::string failure;
  {
    const std::lock_guard lock(failure_mutex_);
    failure.swap(failure_);
  }
  if (!failure.empty()) {
    raise(ErrorKind::kAborted, "earlier work of a pretended device has failed: " + failure);
  }
}

Block* Machine::allocate(StreamHandle user, std::size_t size_bytes) {
  auto block = std::make_unique<Block>();
  block->memory = device(user.device).heap->allocate(size_bytes);
  block->size_bytes = size_bytes;
  block->device = user.device;
  block->users.push_back(user);
  return block.release();
}

void Machine::use(Block& block, StreamHandle user) {
  const std::lock_guard lock(block.mutex);
  const auto same = [&](StreamHandle known) { return known.raw == user.raw; };
  if (std::ranges::none_of(block.users, same)) block.users.push_back(user);
}

void Machine::free(Block* block) noexcept {
  Device& owner = device(block->device);
  for (const StreamHandle user : block->users) order(user, owner.reaper);
  run_on_host(owner.reaper, [this, &owner, block] {
    if (overwrites_) std::memset(block->memory, 0xff, block->size_bytes);
    owner.heap->free(block->memory);
    delete block;
  });
}

}  // namespace fastgpu::test
