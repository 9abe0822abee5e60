// The memory of one operation: runs of elements for the communicator, out of tensors of any
// strides and lists of tensors.
//
// Where a tensor is contiguous, or a list lies one after the other in memory, the run is the
// tensors' own; else it is scratch that pack() fills and unpack() empties. Both write raw memory:
// they run on the engine's thread, where an operation of ATen would change version counters that
// autograd looks at, and would need threads of its own.
// Ownership: keeps the tensors' storages (not the tensors: those may need the GIL to go).
// Threading: the caller's until the operation starts, then the operation's.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace fastgpu {

class PackedTensors {
 public:
  explicit PackedTensors(const char* op) : op_(op) {}
  PackedTensors(const PackedTensors&) = delete;
  PackedTensors& operator=(const PackedTensors&) = delete;

  // The run to read, to write, or both, of tensors in order.
  const std::byte* read(std::span<const at::Tensor> tensors);
  std::byte* write(std::span<const at::Tensor> tensors);
  std::byte* update(std::span<const at::Tensor> tensors);
  const std::byte* read(const at::Tensor& tensor) { return read({&tensor, 1}); }
  std::byte* write(const at::Tensor& tensor) { return write({&tensor, 1}); }
  std::byte* update(const at::Tensor& tensor) { return update({&tensor, 1}); }
  // The same, never the tensors' own memory: for an input that overlaps the output.
  const std::byte* read_copy(std::span<const at::Tensor> tensors);
  // Has pack() copy the tensor into a run that write() gave.
  void feed(const at::Tensor& tensor, std::byte* run);

  void pack();
  void unpack();
  bool packs() const { return !inputs_.empty(); }
  bool unpacks() const { return !outputs_.empty(); }

 private:
  // The elements of a tensor in order, somewhere in memory.
  struct Layout {
    std::byte* memory = nullptr;
    std::size_t element_bytes = 0;
    uint64_t size_bytes = 0;
    bool contiguous = true;
    c10::SmallVector<int64_t, 4> sizes;
    c10::SmallVector<int64_t, 4> strides;
  };
  struct Copy {
    Layout tensor;
    std::byte* scratch = nullptr;
  };
  enum class Access : uint8_t { kRead, kWrite, kUpdate };

  std::byte* run_of(std::span<const at::Tensor> tensors, Access access, bool copy);
  std::byte* own_run(std::span<const at::Tensor> tensors, bool written);
  void check(const at::Tensor& tensor, bool written) const;
  static Layout layout_of(const at::Tensor& tensor, bool written);
  template <typename Visit>
  static void for_each_row(const Layout& layout, Visit visit);

  const char* op_;
  c10::SmallVector<c10::Storage, 2> storages_;
  std::vector<Copy> inputs_;
  std::vector<Copy> outputs_;
  std::vector<std::unique_ptr<std::byte[]>> scratch_;
};

// Whether two runs of memory share a byte.
bool overlap(const std::byte* one, uint64_t one_bytes, const std::byte* other,
             uint64_t other_bytes);

}  // namespace fastgpu
