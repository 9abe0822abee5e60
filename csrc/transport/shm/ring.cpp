#include "transport/shm/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/memory_file.h"

namespace fastgpu {
namespace {

constexpr std::size_t kRingHeaderBytes = 4096;  // also what the buffers are aligned to
constexpr uint32_t kMostSlots = 32;
static_assert(uint64_t{2} * buffers_of({.slots = kMostSlots}) <= kReturns);
constexpr uint32_t kMostBytes = 16 << 20;  // the limit for buffers and reply slots
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;
static_assert(sizeof(RingWords) <= kRingHeaderBytes);

bool possible(const ShmRingConfig& config) {
  return std::has_single_bit(config.slots) && config.slots <= kMostSlots &&
         config.buffer_bytes >= 64 && config.buffer_bytes % 64 == 0 &&
         config.buffer_bytes <= kMostBytes && config.reply_slots <= kMostReplySlots &&
         config.reply_slot_bytes % 64 == 0 && config.reply_slot_bytes <= kMostBytes;
}

std::size_t buffer_offset(const ShmRingConfig& config) {
  const std::size_t end = kRingHeaderBytes + config.slots * sizeof(SlotLine);
  return (end + kRingHeaderBytes - 1) / kRingHeaderBytes * kRingHeaderBytes;
}

std::size_t reply_slot_offset(const ShmRingConfig& config) {
  return buffer_offset(config) + std::size_t{buffers_of(config)} * config.buffer_bytes;
}

std::size_t file_bytes(const ShmRingConfig& config) {
  return reply_slot_offset(config) + std::size_t{config.reply_slots} * config.reply_slot_bytes;
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
              std::to_string(kMostSlots) + ", buffers of a multiple of 64 bytes, at most " +
              std::to_string(kMostBytes) + ", and at most " + std::to_string(kMostReplySlots) +
              " reply slots of such a size or of 0 bytes; not " + std::to_string(config.slots) +
              " slots, buffers of " + std::to_string(config.buffer_bytes) + " bytes, and " +
              std::to_string(config.reply_slots) + " reply slots of " +
              std::to_string(config.reply_slot_bytes) + " bytes");
  }
  UniqueFd fd = make_memory_file("fastgpu-ring", file_bytes(config));
  std::byte* page = map(fd.get(), kRingHeaderBytes);
  auto* words = reinterpret_cast<RingWords*>(page);
  words->slots = config.slots;
  words->buffer_bytes = config.buffer_bytes;
  words->reply_slots = config.reply_slots;
  words->reply_slot_bytes = config.reply_slot_bytes;
  if (config.single_copy) words->mark = ProcessMark::mine();
  words->magic = kRingMagic;
  ::munmap(page, kRingHeaderBytes);
  return fd;
}

ShmRing::ShmRing(const UniqueFd& fd) {
  struct stat status{};
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || ::fstat(fd.get(), &status) != 0 ||
      status.st_size < static_cast<off_t>(kRingHeaderBytes)) {
    raise(ErrorKind::kRendezvous, "a peer passed a file that is not a shared-memory ring");
  }
  mapped_bytes_ = static_cast<std::size_t>(status.st_size);
  base_ = map(fd.get(), mapped_bytes_);
  config_ = {.slots = words().slots,
             .buffer_bytes = words().buffer_bytes,
             .reply_slots = words().reply_slots,
             .reply_slot_bytes = words().reply_slot_bytes};
  if (words().magic != kRingMagic || !possible(config_) || file_bytes(config_) != mapped_bytes_) {
    ::munmap(base_, mapped_bytes_);
    raise(ErrorKind::kRendezvous,
          "a peer passed a shared-memory ring that has another layout; does every rank run the "
          "same version?");
  }
  mask_ = config_.slots - 1;
  lines_ = reinterpret_cast<SlotLine*>(base_ + kRingHeaderBytes);
  buffers_ = base_ + buffer_offset(config_);
  reply_slots_ = base_ + reply_slot_offset(config_);
}

ShmRing::~ShmRing() { ::munmap(base_, mapped_bytes_); }

uint64_t ShmRing::piece_bytes(uint64_t size_bytes) const noexcept {
  const uint64_t share = (size_bytes / kPiecesWanted + 63) / 64 * 64;
  return std::min<uint64_t>(std::max(share, kLeastPieceBytes), config_.buffer_bytes);
}

bool ShmRing::closed() const noexcept {
  return words().sender_closed.load(std::memory_order_acquire) != 0 ||
         words().receiver_closed.load(std::memory_order_acquire) != 0;
}

}  // namespace fastgpu
