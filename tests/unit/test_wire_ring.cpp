// The layout of a shared-memory ring in docs/wire.md, read and written here at its offsets in the
// file, without the library's own structs.
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "transport/shm/end.h"
#include "unit/shm_ends.h"
#include "unit/wire_bytes.h"

namespace fastgpu::test {
namespace {

constexpr std::size_t kLines = 4096;
constexpr std::size_t kBuffers = 8192;
constexpr std::size_t kBufferBytes = 64 * 1024;
constexpr std::size_t kReplySlots = kBuffers + 16 * kBufferBytes;
constexpr std::size_t kReplySlotBytes = 1024 * 1024;

// All of a ring's file, as bytes.
class RingFile {
 public:
  explicit RingFile(const UniqueFd& fd) {
    struct stat status{};
    CHECK_EQ(::fstat(fd.get(), &status), 0);
    size_ = static_cast<std::size_t>(status.st_size);
    void* memory = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    CHECK(memory != MAP_FAILED);
    memory_ = static_cast<std::byte*>(memory);
  }
  ~RingFile() { ::munmap(memory_, size_); }
  RingFile(const RingFile&) = delete;
  RingFile& operator=(const RingFile&) = delete;

  std::size_t size() const { return size_; }
  std::span<std::byte> at(std::size_t offset, std::size_t size_bytes) const {
    return {memory_ + offset, size_bytes};
  }
  uint64_t number(std::size_t offset, std::size_t size_bytes) const {
    uint64_t value = 0;
    for (std::size_t i = size_bytes; i-- > 0;) {
      value = value << 8 | std::to_integer<uint64_t>(memory_[offset + i]);
    }
    return value;
  }
  // The line of a slot: its flag, and the 16 bytes behind the header.
  uint64_t flag(std::size_t slot) const { return number(kLines + 64 * slot, 8); }
  std::string header(std::size_t slot) const { return hex(at(kLines + 64 * slot + 8, 40)); }
  std::span<std::byte> inline_bytes(std::size_t slot) const {
    return at(kLines + 64 * slot + 48, 16);
  }

 private:
  std::byte* memory_ = nullptr;
  std::size_t size_ = 0;
};

FrameHeader header_of(uint64_t size_bytes) {
  return {.generation = 1, .ordinal = 2, .sequence = 3, .size_bytes = size_bytes, .key = {4, 5}};
}

std::string header_bytes(uint64_t size_bytes) {
  return hex(WireBytes().u32(1).u32(2).u64(3).u64(size_bytes).u64(4).u64(5));
}

TEST(a_rings_words_lie_at_their_offsets) {
  const UniqueFd fd = create_shm_ring({});
  const RingFile file(fd);
  CHECK_EQ(file.size(), kReplySlots + 2 * kReplySlotBytes);
  CHECK_EQ(hex(file.at(0, 8)), hex(WireBytes().text("fgring03")));
  CHECK_EQ(file.number(8, 4), 8U);
  CHECK_EQ(file.number(12, 4), kBufferBytes);
  CHECK_EQ(file.number(16, 4), 2U);
  CHECK_EQ(file.number(20, 4), kReplySlotBytes);
  // The sender's mark, which lies in this process: an address, and the value that is there.
  const ProcessMark mark = ProcessMark::mine();
  CHECK_EQ(file.number(24, 8), reinterpret_cast<uint64_t>(mark.address));
  CHECK_EQ(file.number(32, 8), mark.value);
  for (const std::size_t offset : {40U, 128U, 384U, 512U}) {
    CHECK_EQ(hex(file.at(offset, 64)), hex(std::vector<std::byte>(64)));
  }
}

TEST(a_ring_that_is_not_to_be_read_by_the_kernel_has_no_mark) {
  const UniqueFd fd = create_shm_ring({.single_copy = false});
  CHECK_EQ(hex(RingFile(fd).at(24, 16)), hex(std::vector<std::byte>(16)));
}

TEST(small_payloads_lie_in_the_line_and_others_in_a_buffer) {
  Ends ends({});
  const RingFile file(ends.ring);
  const std::vector<std::byte> payload(100, std::byte{7});
  for (const std::size_t size_bytes : {16U, 100U}) {
    Outgoing frame{.header = header_of(size_bytes), .payload = payload.data()};
    ends.sender->try_send(frame);
    CHECK(frame.done);
  }
  CHECK_EQ(file.flag(0), 8U * 1 + 0);
  CHECK_EQ(file.header(0), header_bytes(16));
  CHECK_EQ(hex(file.inline_bytes(0)), hex(std::span(payload).first(16)));
  CHECK_EQ(file.flag(1), 8U * 2 + 0);
  CHECK_EQ(file.header(1), header_bytes(100));
  const uint64_t buffer = file.number(kLines + 64 + 48, 4);
  CHECK_EQ(file.number(kLines + 64 + 52, 4), 0U);  // of this ring
  CHECK(buffer < 16);
  CHECK_EQ(hex(file.at(kBuffers + buffer * kBufferBytes, 100)), hex(payload));
}

TEST(a_receiver_says_what_it_has_taken_and_which_buffers_are_free) {
  Ends ends({});
  const RingFile file(ends.ring);
  std::vector<std::byte> target(100);
  for (int i = 0; i < 10; ++i) {
    CHECK(ends.send(target));
    CHECK(ends.receive(target));
  }
  CHECK_EQ(file.number(128, 8), 10U);
  // It keeps eight of the ten buffers to send by, and returns those of slots 8 and 9.
  CHECK_EQ(file.number(136, 8), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK_EQ(file.number(144 + i, 1), 2 * file.number(kLines + 64 * i + 48, 4));
  }
}

TEST(an_end_that_closes_says_so) {
  Ends ends({});
  const RingFile file(ends.ring);
  ends.sender->hang_up();
  CHECK_EQ(file.number(384, 4), 1U);
  CHECK_EQ(file.number(388, 4), 0U);
  ends.receiver->hang_up();
  CHECK_EQ(file.number(388, 4), 1U);
}

TEST(a_reference_names_segment_reply_and_offset) {
  SymmetricHeap heap;
  heap.allocate(4096);
  std::byte* memory = heap.allocate(8192);
  Ends ends({}, &heap);
  const RingFile file(ends.ring);
  Outgoing frame{.header = header_of(8192), .payload = memory, .reply = 7};
  ends.sender->try_send(frame);
  CHECK_EQ(file.flag(0), 8U * 1 + 1);
  CHECK_EQ(file.header(0), header_bytes(8192));
  const uint64_t offset = heap.find(memory, 8192)->offset_bytes;
  CHECK(offset > 0);
  CHECK_EQ(hex(file.inline_bytes(0)), hex(WireBytes().u32(0).u32(7).u64(offset)));
}

TEST(a_payload_in_a_reply_slot_names_slot_and_reply) {
  Ends ends({});
  const RingFile file(ends.ring);
  const std::vector<std::byte> payload(2048, std::byte{9});
  for (uint32_t slot = 0; slot < 2; ++slot) {
    Outgoing frame{.header = header_of(2048), .payload = payload.data(), .reply = 3};
    ends.sender->try_send(frame);
    CHECK_EQ(file.flag(slot), 8U * (slot + 1) + 2);
    CHECK_EQ(hex(file.inline_bytes(slot).first(8)), hex(WireBytes().u32(slot).u32(3)));
    CHECK_EQ(hex(file.at(kReplySlots + slot * kReplySlotBytes, 2048)), hex(payload));
  }
}

TEST(a_payload_in_private_memory_is_named_by_its_address) {
  const std::vector<std::byte> payload(2048, std::byte{9});
  if (!is_readable_by_others(payload.data(), payload.size())) {
    skip("the kernel does not let a process read memory by process_vm_readv here");
  }
  Ends ends({});
  const RingFile file(ends.ring);
  CHECK_EQ(file.number(512, 4), 1U);  // the receiver has found that it can read
  Outgoing frame{.header = header_of(2048), .payload = payload.data(), .single_copy = true};
  ends.sender->try_send(frame);
  CHECK_EQ(file.flag(0), 8U * 1 + 3);
  CHECK_EQ(hex(file.inline_bytes(0).first(8)),
           hex(WireBytes().u64(reinterpret_cast<uint64_t>(payload.data()))));
}

TEST(a_reply_written_in_place_is_a_header_alone) {
  const std::shared_ptr<ShmEnd> end = make_shm_end();
  Ends ends({}, nullptr, end);
  const RingFile file(ends.ring);
  const std::vector<std::byte> payload(2048, std::byte{9});
  std::vector<std::byte> there(2048);
  end->replies.add({.reply = id_of(header_of(2048)), .memory = there.data()});
  Outgoing frame{.header = header_of(2048), .payload = payload.data()};
  ends.sender->try_send(frame);
  CHECK(frame.done);
  CHECK(there == payload);
  CHECK_EQ(file.flag(0), 8U * 1 + 4);
  CHECK_EQ(file.header(0), header_bytes(2048));
}

TEST(lines_written_by_hand_are_received) {
  Ends ends({});
  const RingFile file(ends.ring);
  const std::string text = "sixteen bytes..!";
  const WireBytes line = WireBytes().u64(8).u32(1).u32(2).u64(3).u64(16).u64(4).u64(5).text(text);
  CHECK_EQ(line.bytes().size(), 64U);
  std::memcpy(file.at(kLines, 64).data(), line.bytes().data(), 64);
  FrameHeader header;
  CHECK_EQ(ends.receiver->peek(header), Io::kMoved);
  CHECK(header == header_of(16));
  std::vector<std::byte> target(16);
  CHECK(ends.receive(target));
  CHECK_EQ(hex(target), hex(WireBytes().text(text)));
}

}  // namespace
}  // namespace fastgpu::test
