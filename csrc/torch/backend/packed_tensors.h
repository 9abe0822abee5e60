// The buffers of one operation: contiguous memory for tensors of any strides and for lists of
// tensors. All tensors are on one device. Those of a GPU are contiguous, or
// a single one is in another memory format.
//
// The buffer of a contiguous tensor is the tensor's own memory, and so is the buffer of a list
// whose tensors follow each other in memory. In all other cases the buffer is scratch memory;
// pack() copies the tensors into it, and unpack() copies it back. Both copy raw memory, because
// they run on the engine's thread: ATen operations would change version counters that autograd
// reads, and would start threads. On a GPU they enqueue the copies in the group's stream.
//
// Ownership: keeps the tensors' storages alive. It does not keep the tensors, because destroying a
// tensor may need the GIL.
// Threading: belongs to the caller until the operation starts, then to the operation.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "comm/communicator.h"

namespace fastgpu {

class DeviceCollectives;

class PackedTensors {
 public:
  PackedTensors(const char* op, Communicator& communicator)
      : op_(op), communicator_(communicator) {}
  PackedTensors(const PackedTensors&) = delete;
  PackedTensors& operator=(const PackedTensors&) = delete;

  // The buffer of the tensors, in order, for an operation that reads it, writes it, or both. It is
  // nullptr if they have no elements.
  const std::byte* read(std::span<const at::Tensor> tensors);
  std::byte* write(std::span<const at::Tensor> tensors);
  std::byte* update(std::span<const at::Tensor> tensors);
  const std::byte* read(const at::Tensor& tensor) { return read({&tensor, 1}); }
  std::byte* write(const at::Tensor& tensor) { return write({&tensor, 1}); }
  std::byte* update(const at::Tensor& tensor) { return update({&tensor, 1}); }
  // Like read(), but always a copy: for an input that overlaps the output.
  const std::byte* read_copy(std::span<const at::Tensor> tensors);
  // Like update(), for a CPU's tensor of float16 or bfloat16: the buffer has float32.
  std::byte* update_widened(const at::Tensor& tensor, DType dtype);
  // Makes pack() copy the tensor into a buffer that write() returned.
  void pack_into(std::byte* buffer, const at::Tensor& tensor);

  void pack();
  void unpack();
  bool packs() const { return !inputs_.empty(); }
  bool unpacks() const { return !outputs_.empty(); }
  // The GPU of the tensors; empty if they are the CPU's, or there are none.
  std::optional<c10::Device> device() const { return device_; }

 private:
  // Where the elements of a tensor are in memory.
  struct Layout {
    std::byte* memory = nullptr;
    std::size_t element_bytes = 0;
    uint64_t size_bytes = 0;
    bool contiguous = true;
    std::optional<DType> widened;  // the tensor's dtype, if the buffer has float32
    c10::SmallVector<int64_t, 4> sizes;
    c10::SmallVector<int64_t, 4> strides;
  };
  struct Copy {
    Layout tensor;
    std::byte* buffer = nullptr;
    std::size_t buffer_element_bytes() const {
      return tensor.widened ? sizeof(float) : tensor.element_bytes;
    }
  };
  enum class Access : uint8_t { kRead, kWrite, kUpdate };

  std::byte* buffer_of(std::span<const at::Tensor> tensors, Access access, bool copy);
  static std::byte* own_memory(std::span<const at::Tensor> tensors, bool written);
  void add(const at::Tensor& tensor, bool written);
  std::byte* make_scratch(uint64_t size_bytes);
  DeviceCollectives& collectives();
  static bool is_flat(const at::Tensor& tensor);
  static Layout layout_of(const at::Tensor& tensor, bool written);
  template <typename Visit>
  static void for_each_row(const Layout& layout, Visit visit);
  // Copies neighbouring elements between a tensor and its buffer.
  static void load(const Layout& layout, std::byte* buffer, const std::byte* elements,
                   std::size_t count);
  static void store(const Layout& layout, std::byte* elements, const std::byte* buffer,
                    std::size_t count);

  const char* op_;
  Communicator& communicator_;
  std::optional<c10::Device> device_;
  DeviceCollectives* collectives_ = nullptr;  // nullptr: nothing is copied on a GPU
  bool is_empty_ = true;
  bool all_plain_ = true;  // no tensor of a GPU is in another memory format
  c10::SmallVector<c10::Storage, 2> storages_;
  std::vector<Copy> inputs_;
  std::vector<Copy> outputs_;
  std::vector<std::shared_ptr<std::byte>> scratch_;
};

// Whether two ranges of memory share a byte.
bool overlap(const std::byte* one, uint64_t one_bytes, const std::byte* other,
             uint64_t other_bytes);

}  // namespace fastgpu
