#include "gpu.h"

#include <algorithm>
#include <utility>

namespace fastgpu::test {

void expect_success(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw GpuError(std::string(call) + ": " + cudaGetErrorName(error) + ", " +
                 cudaGetErrorString(error));
}

GpuMemory::GpuMemory(std::size_t size_bytes, std::size_t shift_bytes)
    : shift_bytes_(shift_bytes), size_bytes_(size_bytes) {
  CUDA_CHECK(cudaMalloc(&bytes_, std::max<std::size_t>(size_bytes + shift_bytes, 1)));
  fill(0);
}

GpuMemory::GpuMemory(GpuMemory&& other) noexcept
    : bytes_(std::exchange(other.bytes_, nullptr)),
      shift_bytes_(other.shift_bytes_),
      size_bytes_(other.size_bytes_) {}

// A destructor does not throw; the next call reports the same error.
GpuMemory::~GpuMemory() { static_cast<void>(cudaFree(bytes_)); }

void GpuMemory::upload(const void* source, std::size_t size_bytes) const {
  CUDA_CHECK(cudaMemcpy(data(), source, size_bytes, cudaMemcpyHostToDevice));
}

void GpuMemory::download(void* target, std::size_t size_bytes) const {
  CUDA_CHECK(cudaMemcpy(target, data(), size_bytes, cudaMemcpyDeviceToHost));
}

void GpuMemory::fill(int byte) const { CUDA_CHECK(cudaMemset(data(), byte, size_bytes_)); }

PinnedWord::PinnedWord() {
  void* memory = nullptr;
  CUDA_CHECK(cudaHostAlloc(&memory, sizeof *word_, cudaHostAllocMapped));
  word_ = static_cast<uint64_t*>(memory);
  set(0);
}

PinnedWord::~PinnedWord() { static_cast<void>(cudaFreeHost(word_)); }

GpuProperties gpu_properties() {
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  return {properties.name, static_cast<unsigned>(properties.multiProcessorCount)};
}

unsigned resident_blocks(const void* kernel, unsigned threads) {
  int blocks = 0;
  CUDA_CHECK(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, static_cast<int>(threads), 0));
  return static_cast<unsigned>(blocks) * gpu_properties().multiprocessors;
}

void launch_ranks(const void* kernel, const GpuMemory& args, const RankGrid& grid) {
  const std::byte* ranks = args.data();
  unsigned blocks = grid.blocks;
  void* parameters[] = {static_cast<void*>(&ranks), &blocks};
  CUDA_CHECK(cudaLaunchCooperativeKernel(kernel, dim3(grid.ranks * grid.blocks), dim3(grid.threads),
                                         parameters, 0, nullptr));
}

}  // namespace fastgpu::test
