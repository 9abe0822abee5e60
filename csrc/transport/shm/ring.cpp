#include "transport/shm/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string>

#include "base/error.h"

namespace fastgpu {
namespace {

constexpr std::size_t kHeaderBytes = 4096;  // also what the buffers are aligned to
constexpr uint32_t kMostSlots = 32;
static_assert(uint64_t{2} * buffers_of({.slots = kMostSlots}) <= kReturns);
constexpr uint32_t kMostSlotBytes = 16 << 20;
constexpr uint32_t kMostStages = 32;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;
static_assert(sizeof(RingWords) <= kHeaderBytes);

bool possible(const ShmRingConfig& config) {
  return std::has_single_bit(config.slots) && config.slots <= kMostSlots &&
         config.slot_bytes >= 64 && config.slot_bytes % 64 == 0 &&
         config.slot_bytes <= kMostSlotBytes && config.stages <= kMostStages &&
         config.stage_bytes % 64 == 0 && config.stage_bytes <= kMostSlotBytes;
}

std::size_t buffer_offset(const ShmRingConfig& config) {
  const std::size_t end = kHeaderBytes + config.slots * sizeof(SlotControl);
  return (end + kHeaderBytes - 1) / kHeaderBytes * kHeaderBytes;
}

std::size_t stage_offset(const ShmRingConfig& config) {
  return buffer_offset(config) + std::size_t{buffers_of(config)} * config.slot_bytes;
}

std::size_t file_bytes(const ShmRingConfig& config) {
  return stage_offset(config) + std::size_t{config.stages} * config.stage_bytes;
}

std::byte* map(int fd, std::size_t size_bytes) {
  void* memory = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED)
    raise_system(ErrorKind::kRendezvous, "cannot map a shared-memory ring", errno);
  return static_cast<std::byte*>(memory);
}

}  // namespace

UniqueFd create_shm_ring(const ShmRingConfig& config) {
  if (!possible(config)) {
    raise(ErrorKind::kInvalidArgument,
          "a shared-memory ring has a power of two of slots, at most " +
              std::to_string(kMostSlots) + ", of a multiple of 64 bytes, at most " +
              std::to_string(kMostSlotBytes) + ", and at most " + std::to_string(kMostStages) +
              " stages of as many; not " + std::to_string(config.slots) + " of " +
              std::to_string(config.slot_bytes) + ", and " + std::to_string(config.stages) +
              " of " + std::to_string(config.stage_bytes));
  }
  UniqueFd fd(::memfd_create("fastgpu-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(file_bytes(config))) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    raise_system(ErrorKind::kRendezvous, "cannot make a shared-memory ring", errno);
  }
  std::byte* page = map(fd.get(), kHeaderBytes);
  auto* words = reinterpret_cast<RingWords*>(page);
  words->slots = config.slots;
  words->slot_bytes = config.slot_bytes;
  words->stages = config.stages;
  words->stage_bytes = config.stage_bytes;
  if (config.single_copy) words->sender = ProcessMark::mine();
  words->magic = kRingMagic;
  ::munmap(page, kHeaderBytes);
  return fd;
}

ShmRing::ShmRing(const UniqueFd& fd) {
  struct stat status{};
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || ::fstat(fd.get(), &status) != 0 ||
      status.st_size < static_cast<off_t>(kHeaderBytes)) {
    raise(ErrorKind::kRendezvous, "what a peer passed as a shared-memory ring is not one");
  }
  mapped_bytes_ = static_cast<std::size_t>(status.st_size);
  base_ = map(fd.get(), mapped_bytes_);
  config_ = {.slots = words().slots,
             .slot_bytes = words().slot_bytes,
             .stages = words().stages,
             .stage_bytes = words().stage_bytes};
  if (words().magic != kRingMagic || !possible(config_) || file_bytes(config_) != mapped_bytes_) {
    ::munmap(base_, mapped_bytes_);
    raise(ErrorKind::kRendezvous, "a shared-memory ring that a peer passed has another layout");
  }
  mask_ = config_.slots - 1;
  controls_ = reinterpret_cast<SlotControl*>(base_ + kHeaderBytes);
  buffers_ = base_ + buffer_offset(config_);
  stages_ = base_ + stage_offset(config_);
}

ShmRing::~ShmRing() { ::munmap(base_, mapped_bytes_); }

uint64_t ShmRing::piece_bytes(uint64_t size_bytes) const noexcept {
  const uint64_t share = (size_bytes / kPiecesWanted + 63) / 64 * 64;
  return std::min<uint64_t>(std::max(share, kLeastPieceBytes), config_.slot_bytes);
}

bool ShmRing::closed() const noexcept {
  return words().sender_closed.load(std::memory_order_acquire) != 0 ||
         words().receiver_closed.load(std::memory_order_acquire) != 0;
}

}  // namespace fastgpu
