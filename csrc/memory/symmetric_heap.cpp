#include "memory/symmetric_heap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "base/memory_file.h"
#include "base/page.h"

namespace fastgpu {
namespace {

constexpr std::size_t kFirstSegmentBytes = std::size_t{64} << 20;
constexpr std::size_t kMostGrowthBytes = std::size_t{1} << 30;
// Freed memory of this size or more is returned to the kernel. For less, writing zeros is cheaper.
constexpr std::size_t kReleaseBytes = std::size_t{1} << 20;

std::size_t round_up(std::size_t value, std::size_t unit) {
  if (value > PTRDIFF_MAX - unit) throw std::bad_alloc();
  return (value + unit - 1) / unit * unit;
}

// Makes [offset, offset + size_bytes) of the segment read as zeros.
void clear(int fd, std::byte* base, std::size_t offset, std::size_t size_bytes) noexcept {
  const std::size_t first_page = round_up(offset, page_bytes());
  const std::size_t end = offset + size_bytes;
  const std::size_t last_page = end / page_bytes() * page_bytes();
  if (size_bytes < kReleaseBytes ||
      ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(first_page),
                  static_cast<off_t>(last_page - first_page)) != 0) {
    std::memset(base + offset, 0, size_bytes);
    return;
  }
  std::memset(base + offset, 0, first_page - offset);
  std::memset(base + last_page, 0, end - last_page);
}

// Writes a byte with its own content, while other threads may write it. clang makes an atomic
// fetch_or of 0 a read.
void write_own_content(std::byte* byte) noexcept {
  auto* const place = reinterpret_cast<volatile unsigned char*>(byte);
  unsigned char content = __atomic_load_n(place, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(place, &content, content, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
}

}  // namespace

SymmetricHeap::~SymmetricHeap() {
  for (const Segment& segment : segments_) ::munmap(segment.base, segment.size_bytes);
}

SymmetricHeap::Segment SymmetricHeap::make_segment(std::size_t size_bytes) {
  Segment segment;
  segment.fd = make_memory_file("fastgpu-symmetric", size_bytes);
  void* memory =
      ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, segment.fd.get(), 0);
  if (memory == MAP_FAILED)
    raise_system(ErrorKind::kRendezvous, "cannot map symmetric memory", errno);
  // Succeeds where the system gives large pages on request. Without them access is slower.
  ::madvise(memory, size_bytes, MADV_HUGEPAGE);
  segment.base = static_cast<std::byte*>(memory);
  segment.size_bytes = size_bytes;
  segment.ranges = Ranges(size_bytes);
  return segment;
}

std::byte* SymmetricHeap::Segment::take(std::size_t wanted) {
  const auto offset = ranges.take(wanted);
  return offset ? base + *offset : nullptr;
}

std::byte* SymmetricHeap::allocate(std::size_t size_bytes) {
  const std::size_t wanted = round_up(std::max<std::size_t>(size_bytes, 1), page_bytes());
  const std::lock_guard lock(mutex_);
  for (Segment& segment : segments_)
    if (std::byte* memory = segment.take(wanted)) return memory;
  const std::size_t growth = segments_.empty()
                                 ? kFirstSegmentBytes
                                 : std::min(segments_.back().size_bytes * 2, kMostGrowthBytes);
  segments_.push_back(make_segment(std::max(growth, wanted)));
  return segments_.back().take(wanted);
}

void SymmetricHeap::free(std::byte* memory) noexcept {
  if (::getpid() != creator_) return;
  const std::lock_guard lock(mutex_);
  for (Segment& segment : segments_) {
    if (!segment.holds(memory)) continue;
    const auto offset = static_cast<uint64_t>(memory - segment.base);
    const uint64_t size_bytes = segment.ranges.drop(offset);
    if (size_bytes == 0) return;
    if (segment.revoked.contains(offset)) {
      ::madvise(memory, size_bytes, MADV_DONTNEED);
      return;
    }
    clear(segment.fd.get(), segment.base, offset, size_bytes);
    segment.ranges.give_back(offset, size_bytes);
    return;
  }
}

// A private mapping of the file shows the shared page until this process writes to its own copy. So
// the memory is first mapped again as private, in one step that other threads do not notice, and
// then each page is written with its own content, which copies it.
void SymmetricHeap::revoke(const std::byte* memory) noexcept {
  if (::getpid() != creator_) return;
  const std::lock_guard lock(mutex_);
  for (Segment& segment : segments_) {
    if (!segment.holds(memory)) continue;
    const auto used = segment.ranges.used_around(static_cast<uint64_t>(memory - segment.base));
    if (!used || segment.revoked.contains(used->first)) return;
    const auto [offset, size_bytes] = *used;
    segment.revoked[offset] = size_bytes;
    std::byte* const first = segment.base + offset;
    if (::mmap(first, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, segment.fd.get(),
               static_cast<off_t>(offset)) == MAP_FAILED) {
      log(LogLevel::kError, "symmetric_memory_not_revoked",
          "size_bytes=" + std::to_string(size_bytes) + " errno=" + std::to_string(errno) +
              " meaning=" +
              in_quotes("a peer of the failed operation may still write to its tensor; do not use "
                        "the tensor again"));
      return;
    }
    for (uint64_t at = 0; at < size_bytes; at += page_bytes()) write_own_content(first + at);
    return;
  }
}

std::optional<SegmentSpan> SymmetricHeap::find(const std::byte* memory,
                                               std::size_t size_bytes) const noexcept {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const Segment& segment = segments_[i];
    if (!segment.holds(memory)) continue;
    const auto offset = static_cast<uint64_t>(memory - segment.base);
    if (size_bytes > segment.size_bytes - offset) return std::nullopt;
    const auto after = segment.revoked.lower_bound(offset + size_bytes);
    if (after != segment.revoked.begin()) {
      const auto [begin, alone_bytes] = *std::prev(after);
      if (begin + alone_bytes > offset) return std::nullopt;
    }
    return SegmentSpan{.segment = static_cast<uint32_t>(i), .offset_bytes = offset};
  }
  return std::nullopt;
}

UniqueFd SymmetricHeap::descriptor(uint32_t segment) const {
  const std::lock_guard lock(mutex_);
  if (segment >= segments_.size()) {
    raise(ErrorKind::kInvalidArgument,
          "there is no segment " + std::to_string(segment) + " of symmetric memory");
  }
  return duplicate(segments_[segment].fd.get(), "symmetric memory");
}

PeerSegments::~PeerSegments() {
  for (const auto& [segment, mapping] : mappings_) ::munmap(mapping.base, mapping.size_bytes);
}

void PeerSegments::add(uint32_t segment, UniqueFd fd) {
  struct stat status{};
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  // Without the seal the peer could shrink the file while it is read here, which raises SIGBUS.
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || ::fstat(fd.get(), &status) != 0 ||
      status.st_size <= 0) {
    raise(ErrorKind::kPeerLost,
          "a peer passed symmetric memory that is not sealed against shrinking");
  }
  const std::lock_guard lock(mutex_);
  if (mappings_.contains(segment)) return;  // each channel of the peer passes it once
  const auto size_bytes = static_cast<std::size_t>(status.st_size);
  void* memory = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED)
    raise_system(ErrorKind::kPeerLost, "cannot map a peer's symmetric memory", errno);
  ::madvise(memory, size_bytes, MADV_HUGEPAGE);
  mappings_[segment] = {.base = static_cast<std::byte*>(memory), .size_bytes = size_bytes};
}

std::byte* PeerSegments::at(const SegmentSpan& span, std::size_t size_bytes) const {
  const std::lock_guard lock(mutex_);
  const auto found = mappings_.find(span.segment);
  if (found == mappings_.end()) return nullptr;
  const Mapping& mapping = found->second;
  if (span.offset_bytes > mapping.size_bytes ||
      size_bytes > mapping.size_bytes - span.offset_bytes) {
    raise(ErrorKind::kPeerLost,
          "a peer referred to bytes outside its symmetric memory: " + std::to_string(size_bytes) +
              " at " + std::to_string(span.offset_bytes) + " of " +
              std::to_string(mapping.size_bytes) + "; its process is broken, restart the job");
  }
  return mapping.base + span.offset_bytes;
}

}  // namespace fastgpu
