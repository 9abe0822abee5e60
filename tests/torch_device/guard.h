// What torch needs from a PrivateUse1 device before operators: guard, streams, events, allocators
// and hooks.
// Ownership: none of the objects is destroyed before the process ends. Threading: any thread.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "device/pretended_runtime.h"
#include "machine.h"

namespace fastgpu::test {
inline constexpr auto kType = c10::DeviceType::PrivateUse1;
inline constexpr auto kKey = c10::DispatchKey::PrivateUse1;

inline thread_local c10::DeviceIndex current_device = 0;
inline thread_local std::array<c10::StreamId, kDevices> current_streams{};

inline Machine& machine() { return Machine::of_process(); }

inline StreamHandle handle_of(const c10::Stream& stream) {
  return machine().stream(stream.device_index(), stream.id());
}

inline StreamHandle current_stream(c10::DeviceIndex device) {
  return machine().stream(device, current_streams.at(static_cast<std::size_t>(device)));
}

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kType; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Device getDevice() const override { return {kType, current_device}; }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.type() == kType && device.index() < kDevices, "there is no device ", device);
    if (device.has_index()) current_device = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current_device = device.index();
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }

  c10::Stream getStream(c10::Device device) const override {
    const c10::DeviceIndex index = index_of(device);
    return make(index, current_streams.at(static_cast<std::size_t>(index)));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return make(index_of(device), 0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return make(index_of(device), machine().take_pool_stream(index_of(device)));
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return make(index_of(device), machine().make_stream(index_of(device)));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const c10::Stream before = getStream(stream.device());
    current_streams.at(static_cast<std::size_t>(stream.device_index())) = stream.id();
    return before;
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return handle_of(stream).raw;
  }
  bool queryStream(const c10::Stream& stream) const override { return is_idle(handle_of(stream)); }
  void synchronizeStream(const c10::Stream& stream) const override {
    machine().synchronize(handle_of(stream));
  }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    machine().synchronize_device(device);
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    const StreamHandle recorded = handle_of(stream);
    if (*event == nullptr) *event = machine().runtime().make_event(recorded.device).raw;
    machine().runtime().record({*event, recorded.device}, recorded);
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event == nullptr) return;
    machine().runtime().wait(handle_of(stream), {event, stream.device_index()});
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || machine().runtime().passed({event, 0});
  }
  void synchronizeEvent(void* event) const override {
    while (!queryEvent(event)) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  void destroyEvent(void* event, const c10::DeviceIndex device) const noexcept override {
    if (event != nullptr) machine().runtime().destroy(EventHandle{event, device});
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override;

 private:
  static c10::DeviceIndex index_of(c10::Device device) {
    return device.has_index() ? device.index() : current_device;
  }
  static c10::Stream make(c10::DeviceIndex device, c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, {kType, device}, id);
  }
};

inline void free_block(void* block) { machine().free(static_cast<Block*>(block)); }

inline void Guard::recordDataPtrOnStream(const c10::DataPtr& data,
                                         const c10::Stream& stream) const {
  auto* const block = data.cast_context<Block>(&free_block);
  if (block != nullptr) Machine::use(*block, handle_of(stream));
}

class DeviceMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size_bytes) override {
    const c10::Device device(kType, current_device);
    if (size_bytes == 0) return {nullptr, device};
    Block* const block = machine().allocate(current_stream(current_device), size_bytes);
    return {block->memory, block, &free_block, device};
  }
  void copy_data(void* target, const void* source, std::size_t size_bytes) const override {
    const StreamHandle stream = current_stream(current_device);
    machine().runtime().copy(stream, static_cast<std::byte*>(target),
                             static_cast<const std::byte*>(source), size_bytes);
  }
};

// Memory of the host that every pretended device reads and writes.
class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size_bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (size_bytes == 0) return {nullptr, cpu};
    std::byte* const memory = machine().runtime().allocate_pinned(size_bytes);
    const std::lock_guard lock(mutex_);
    ends_[memory] = memory + size_bytes;
    return {memory, memory, &free_pinned, cpu};
  }
  void copy_data(void* target, const void* source, std::size_t size_bytes) const override {
    default_copy_data(target, source, size_bytes);
  }
  bool contains(const void* place) const {
    const std::lock_guard lock(mutex_);
    const auto after = ends_.upper_bound(static_cast<const std::byte*>(place));
    return after != ends_.begin() && place < std::prev(after)->second;
  }
  static PinnedMemory& all() {
    static auto* const memory = new PinnedMemory;  // never destroyed, as the machine
    return *memory;
  }

 private:
  static void free_pinned(void* memory) {
    {
      const std::lock_guard lock(all().mutex_);
      all().ends_.erase(static_cast<std::byte*>(memory));
    }
    machine().runtime().free_pinned(static_cast<std::byte*>(memory));
  }

  mutable std::mutex mutex_;
  std::map<const std::byte*, const std::byte*> ends_;  // guarded by mutex_
};

inline DeviceMemory& device_memory() {
  static auto* const memory = new DeviceMemory;
  return *memory;
}

// Gives the storage other memory, and keeps what fits of its contents.
inline void resize_storage(const c10::Storage& storage, std::size_t size_bytes) {
  const c10::DeviceGuard guard(storage.device());
  c10::DataPtr memory = device_memory().allocate(size_bytes);
  const std::size_t kept = std::min(size_bytes, storage.nbytes());
  if (kept > 0) device_memory().copy_data(memory.get(), storage.data(), kept);
  auto* const block = storage.data_ptr().cast_context<Block>(&free_block);
  if (block != nullptr) Machine::use(*block, current_stream(storage.device().index()));
  storage.set_data_ptr_noswap(std::move(memory));
  storage.set_nbytes(size_bytes);
}

class Hooks final : public at::PrivateUse1HooksInterface {
 public:
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  void setCurrentDevice(c10::DeviceIndex device) const override {
    Guard().setDevice({kType, device});
  }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    return Guard().exchangeDevice({kType, device}).index();
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return exchangeDevice(device);
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  bool isPinnedPtr(const void* data) const override { return PinnedMemory::all().contains(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &PinnedMemory::all(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, std::size_t size_bytes) const override {
    resize_storage(storage, size_bytes);
  }
};

}  // namespace fastgpu::test
