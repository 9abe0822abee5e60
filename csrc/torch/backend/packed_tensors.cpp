#include "torch/backend/packed_tensors.h"

#include <ATen/ATen.h>

#include <cstring>

#include "comm/group_device.h"
#include "kernels/convert.h"
#include "torch/backend/devices.h"
#include "torch/backend/elements.h"
#include "torch/backend/errors.h"

namespace fastgpu {

void PackedTensors::add(const at::Tensor& tensor, bool written) {
  written ? check_writable(op_, tensor) : check_dense(op_, tensor);
  const auto device = is_on_device(tensor) ? std::optional(tensor.device()) : std::nullopt;
  if (!is_empty_ && device != device_) {
    raise_invalid(op_, "the tensors are on several devices, one on " + tensor.device().str() +
                           "; move all to one");
  }
  const bool is_plain = !device || tensor.is_contiguous();
  if (!is_empty_ && !(is_plain && all_plain_)) {
    raise_invalid(op_,
                  "a tensor of a GPU is not contiguous, which it must be in a call with several "
                  "tensors; pass tensor.contiguous()");
  }
  is_empty_ = false;
  all_plain_ = is_plain;
  device_ = device;
  storages_.push_back(tensor.storage());
}

// Only collectives copy. For the first one on a GPU, this is where the ranks meet.
DeviceCollectives& PackedTensors::collectives() {
  if (collectives_ == nullptr) {
    collectives_ = &translated([&]() -> DeviceCollectives& {
      return communicator_.device().collectives(current_stream(*device_), communicator_);
    });
  }
  return *collectives_;
}

std::byte* PackedTensors::make_scratch(uint64_t size_bytes) {
  if (device_) {
    DeviceCollectives& device = collectives();
    scratch_.push_back(translated([&] { return device.scratch(size_bytes); }));
  } else {
    scratch_.emplace_back(new std::byte[size_bytes], std::default_delete<std::byte[]>());
  }
  return scratch_.back().get();
}

// On a GPU the elements are taken in the order of their memory, such as channels last.
bool PackedTensors::is_flat(const at::Tensor& tensor) {
  return is_on_device(tensor) || tensor.is_contiguous();
}

PackedTensors::Layout PackedTensors::layout_of(const at::Tensor& tensor, bool written) {
  Layout layout;
  layout.memory = static_cast<std::byte*>(written ? tensor.mutable_data_ptr()
                                                  : const_cast<void*>(tensor.const_data_ptr()));
  layout.element_bytes = tensor.element_size();
  layout.size_bytes = static_cast<uint64_t>(tensor.numel()) * tensor.element_size();
  layout.contiguous = is_flat(tensor);
  if (!layout.contiguous) {
    layout.sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
    layout.strides.assign(tensor.strides().begin(), tensor.strides().end());
  }
  return layout;
}

// The tensors' own memory if it is contiguous, else nullptr.
std::byte* PackedTensors::own_memory(std::span<const at::Tensor> tensors, bool written) {
  std::byte* first = nullptr;
  const std::byte* end = nullptr;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.numel() == 0) continue;
    if (!is_flat(tensor)) return nullptr;
    const Layout layout = layout_of(tensor, written);
    if (first == nullptr) {
      first = layout.memory;
    } else if (layout.memory != end) {
      return nullptr;
    }
    end = layout.memory + layout.size_bytes;
  }
  return first;
}

std::byte* PackedTensors::buffer_of(std::span<const at::Tensor> tensors, Access access, bool copy) {
  const bool written = access != Access::kRead;
  uint64_t size_bytes = 0;
  for (const at::Tensor& tensor : tensors) {
    add(tensor, written);
    size_bytes += static_cast<uint64_t>(tensor.numel()) * tensor.element_size();
  }
  if (size_bytes == 0) return nullptr;
  if (!copy) {
    if (std::byte* own = own_memory(tensors, written)) return own;
  }
  std::byte* const scratch = make_scratch(size_bytes);
  std::byte* place = scratch;
  for (const at::Tensor& tensor : tensors) {
    const Layout layout = layout_of(tensor, written);
    if (access != Access::kWrite) inputs_.push_back({layout, place});
    if (written) outputs_.push_back({layout, place});
    place += layout.size_bytes;
  }
  return scratch;
}

const std::byte* PackedTensors::read(std::span<const at::Tensor> tensors) {
  return buffer_of(tensors, Access::kRead, false);
}

std::byte* PackedTensors::write(std::span<const at::Tensor> tensors) {
  return buffer_of(tensors, Access::kWrite, false);
}

std::byte* PackedTensors::update(std::span<const at::Tensor> tensors) {
  return buffer_of(tensors, Access::kUpdate, false);
}

std::byte* PackedTensors::update_widened(const at::Tensor& tensor, DType dtype) {
  add(tensor, true);
  Layout layout = layout_of(tensor, true);
  layout.widened = dtype;
  std::byte* const scratch = make_scratch(layout.size_bytes / layout.element_bytes * sizeof(float));
  inputs_.push_back({layout, scratch});
  outputs_.push_back({layout, scratch});
  return scratch;
}

const std::byte* PackedTensors::read_copy(std::span<const at::Tensor> tensors) {
  return buffer_of(tensors, Access::kRead, true);
}

void PackedTensors::pack_into(std::byte* buffer, const at::Tensor& tensor) {
  add(tensor, false);
  if (device_) collectives();
  inputs_.push_back({layout_of(tensor, false), buffer});
}

// Calls visit(first element, stride in bytes, count) for each row, in the order of the elements. A
// row extends along the last dimension.
template <typename Visit>
void PackedTensors::for_each_row(const Layout& layout, Visit visit) {
  const std::size_t last = layout.sizes.size() - 1;
  const auto element_bytes = static_cast<int64_t>(layout.element_bytes);
  c10::SmallVector<int64_t, 4> index(last, 0);
  std::byte* row = layout.memory;
  while (true) {
    visit(row, layout.strides[last] * element_bytes, layout.sizes[last]);
    std::size_t dim = last;
    while (dim > 0) {
      --dim;
      row += layout.strides[dim] * element_bytes;
      if (++index[dim] < layout.sizes[dim]) break;
      row -= layout.strides[dim] * element_bytes * layout.sizes[dim];
      index[dim] = 0;
      if (dim == 0) return;
    }
    if (last == 0) return;
  }
}

void PackedTensors::load(const Layout& layout, std::byte* buffer, const std::byte* elements,
                         std::size_t count) {
  if (layout.widened) {
    widen(elements, *layout.widened, reinterpret_cast<float*>(buffer), count);
  } else {
    std::memcpy(buffer, elements, count * layout.element_bytes);
  }
}

void PackedTensors::store(const Layout& layout, std::byte* elements, const std::byte* buffer,
                          std::size_t count) {
  if (layout.widened) {
    narrow(reinterpret_cast<const float*>(buffer), elements, *layout.widened, count);
  } else {
    std::memcpy(elements, buffer, count * layout.element_bytes);
  }
}

void PackedTensors::pack() {
  if (inputs_.empty()) return;
  DeviceExecutor* const device = device_ ? &collectives_->executor() : nullptr;
  for (const Copy& copy : inputs_) {
    const Layout& tensor = copy.tensor;
    if (tensor.size_bytes == 0 || tensor.memory == copy.buffer) continue;
    if (device != nullptr) {
      device->copy(copy.buffer, tensor.memory, tensor.size_bytes);
      continue;
    }
    if (tensor.contiguous) {
      load(tensor, copy.buffer, tensor.memory, tensor.size_bytes / tensor.element_bytes);
      continue;
    }
    std::byte* target = copy.buffer;
    for_each_row(tensor, [&](const std::byte* row, int64_t stride_bytes, int64_t count) {
      for (int64_t i = 0; i < count; ++i, target += copy.buffer_element_bytes()) {
        load(tensor, target, row + i * stride_bytes, 1);
      }
    });
  }
}

void PackedTensors::unpack() {
  if (outputs_.empty()) return;
  DeviceExecutor* const device = device_ ? &collectives_->executor() : nullptr;
  for (const Copy& copy : outputs_) {
    const Layout& tensor = copy.tensor;
    if (tensor.size_bytes == 0) continue;
    if (device != nullptr) {
      device->copy(tensor.memory, copy.buffer, tensor.size_bytes);
      continue;
    }
    if (tensor.contiguous) {
      store(tensor, tensor.memory, copy.buffer, tensor.size_bytes / tensor.element_bytes);
      continue;
    }
    const std::byte* source = copy.buffer;
    for_each_row(tensor, [&](std::byte* row, int64_t stride_bytes, int64_t count) {
      for (int64_t i = 0; i < count; ++i, source += copy.buffer_element_bytes()) {
        store(tensor, row + i * stride_bytes, source, 1);
      }
    });
  }
}

bool overlap(const std::byte* one, uint64_t one_bytes, const std::byte* other,
             uint64_t other_bytes) {
  return one < other + other_bytes && other < one + one_bytes;
}

}  // namespace fastgpu
