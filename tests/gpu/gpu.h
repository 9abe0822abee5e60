// What the checks on a GPU share: memory, errors of the CUDA runtime, and launches.
//
// Threading: one thread.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>

namespace fastgpu::test {

// Of the CUDA runtime. After some of them no later call of the process works.
struct GpuError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws GpuError with the call's text unless it succeeded.
void expect_success(cudaError_t error, const char* call);
#define CUDA_CHECK(call) ::fastgpu::test::expect_success((call), #call)

// Memory of the GPU that begins `shift_bytes` behind a border of 256 bytes. Each object makes one
// allocation, so that compute-sanitizer finds accesses outside of it.
class GpuMemory {
 public:
  explicit GpuMemory(std::size_t size_bytes, std::size_t shift_bytes = 0);
  GpuMemory(GpuMemory&& other) noexcept;
  GpuMemory& operator=(GpuMemory&&) = delete;
  ~GpuMemory();

  std::byte* data() const { return bytes_ + shift_bytes_; }
  template <typename Type>
  Type* as() const {
    return reinterpret_cast<Type*>(data());
  }
  std::size_t size_bytes() const { return size_bytes_; }
  // Return when the copy has ended.
  void upload(const void* source, std::size_t size_bytes) const;
  void download(void* target, std::size_t size_bytes) const;
  // Every byte, ordered in the default stream.
  void fill(int byte) const;

 private:
  std::byte* bytes_ = nullptr;
  std::size_t shift_bytes_;
  std::size_t size_bytes_;
};

template <typename Type>
GpuMemory copy_to_gpu(std::span<const Type> values) {
  GpuMemory memory(values.size_bytes());
  memory.upload(static_cast<const void*>(values.data()), values.size_bytes());
  return memory;
}

// A word of the host that kernels can read.
class PinnedWord {
 public:
  PinnedWord();
  PinnedWord(const PinnedWord&) = delete;
  PinnedWord& operator=(const PinnedWord&) = delete;
  ~PinnedWord();
  uint64_t* address() const { return word_; }
  void set(uint64_t value) { __atomic_store_n(word_, value, __ATOMIC_RELEASE); }

 private:
  uint64_t* word_ = nullptr;
};

struct GpuProperties {
  std::string name;
  unsigned multiprocessors = 0;
};
GpuProperties gpu_properties();

// How many blocks of `threads` threads of the kernel can be resident at once.
unsigned resident_blocks(const void* kernel, unsigned threads);

struct RankGrid {
  unsigned ranks = 1;
  unsigned blocks = 1;  // of each rank
  unsigned threads = 512;
};

// Launches a kernel (const Args* ranks, unsigned blocks) with all ranks resident, in the default
// stream. `args` has an element for each rank.
void launch_ranks(const void* kernel, const GpuMemory& args, const RankGrid& grid);

// Launches a kernel with one struct parameter.
template <typename Args>
void launch(const void* kernel, unsigned blocks, unsigned threads, const Args& args,
            cudaStream_t stream = nullptr) {
  void* parameters[] = {const_cast<Args*>(&args)};
  CUDA_CHECK(cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), parameters, 0, stream));
}

}  // namespace fastgpu::test
