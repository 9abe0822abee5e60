#include "channel_suite.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "check.h"
#include "patience.h"
#include "transport/faulty.h"

namespace fastgpu::test {
namespace {

using Random = std::mt19937_64;
// So many refusals in a row are not caused by injected faults or by the kernel's timing.
constexpr int kRefusals = 400;
// More frames than are sent before a hang-up is noticed.
constexpr std::size_t kForever = 1 << 16;

uint64_t random_seed() { return std::random_device{}(); }

uint64_t below(Random& random, uint64_t end) {
  return std::uniform_int_distribution<uint64_t>(0, end - 1)(random);
}

// Byte `at` of the payload of frame `number`: a cheap pattern in which every piece is different.
std::byte pattern(uint64_t number, uint64_t at) {
  const uint64_t mixed = (number * 0x9e3779b97f4a7c15 + (at >> 3)) * 0xbf58476d1ce4e5b9;
  return static_cast<std::byte>(mixed >> (8 + (at & 7) * 7));
}

FrameHeader header_of(uint64_t number, uint64_t size_bytes) {
  return {.generation = static_cast<uint32_t>(number % 3),
          .ordinal = static_cast<uint32_t>(number),
          .sequence = ~number,
          .size_bytes = size_bytes,
          .key = {number * 31, ~size_bytes}};
}

void fill(std::byte* memory, uint64_t number, uint64_t size_bytes) {
  for (uint64_t at = 0; at < size_bytes; ++at) memory[at] = pattern(number, at);
}

bool holds(const std::byte* memory, uint64_t number, uint64_t size_bytes) {
  for (uint64_t at = 0; at < size_bytes; ++at)
    if (memory[at] != pattern(number, at)) return false;
  return true;
}

// Sends frames of the given sizes, one after another.
class Source {
 public:
  Source(SendChannel& channel, const ChannelParameter& parameter, std::vector<uint64_t> sizes)
      : channel_(channel),
        sizes_(std::move(sizes)),
        single_copy_(parameter.single_copy),
        memory_(parameter.allocate(
            sizes_.empty() ? 1 : std::max<uint64_t>(*std::ranges::max_element(sizes_), 1))) {}

  bool finished() const { return sent_ == sizes_.size(); }
  uint64_t sent() const { return sent_; }

  Io step() {
    if (finished()) return Io::kBlocked;
    if (!frame_) {
      fill(memory_.get(), sent_, sizes_[sent_]);
      frame_ = Outgoing{.header = header_of(sent_, sizes_[sent_]),
                        .payload = memory_.get(),
                        .single_copy = single_copy_};
    }
    const Io io = channel_.try_send(*frame_);
    if (frame_->done) {
      // Done means that the payload may change: overwrite it.
      std::memset(memory_.get(), 0x5a, sizes_[sent_]);
      frame_.reset();
      ++sent_;
    }
    return io;
  }

 private:
  SendChannel& channel_;
  std::vector<uint64_t> sizes_;
  bool single_copy_;
  Memory memory_;
  std::optional<Outgoing> frame_;
  uint64_t sent_ = 0;
};

// Receives frames and checks each of them. Peeks at the header again between the pieces.
class Sink {
 public:
  explicit Sink(RecvChannel& channel) : channel_(channel) {}

  uint64_t received() const { return received_; }
  uint64_t partial_bytes() const { return incoming_ ? incoming_->received_bytes : 0; }

  Io step() {
    FrameHeader header;
    const Io seen = channel_.peek(header);
    if (seen != Io::kMoved) return seen;
    if (!incoming_) {
      CHECK(header == header_of(received_, header.size_bytes));
      header_ = header;
      memory_.resize(header.size_bytes);
      incoming_ = Incoming{.target = memory_.data(), .size_bytes = header.size_bytes};
    }
    CHECK(header == header_);
    const Io io = channel_.try_recv(*incoming_);
    if (incoming_->done) {
      CHECK_EQ(incoming_->received_bytes, header_.size_bytes);
      CHECK(holds(memory_.data(), received_, header_.size_bytes));
      incoming_.reset();
      ++received_;
    }
    return io;
  }

 private:
  RecvChannel& channel_;
  FrameHeader header_;
  std::vector<std::byte> memory_;
  std::optional<Incoming> incoming_;
  uint64_t received_ = 0;
};

// Polls both ends from one thread, in random order.
void exchange(const ChannelParameter& parameter, const std::vector<uint64_t>& sizes,
              Random& random) {
  const ChannelEnds ends = parameter.make();
  Source source(*ends.sender, parameter, sizes);
  Sink sink(*ends.receiver);
  const TimeNs deadline = now_ns() + kPatience;
  while (sink.received() < sizes.size() || !source.finished()) {
    CHECK((random() % 2 == 0 ? source.step() : sink.step()) != Io::kClosed);
    CHECK(now_ns() < deadline);
  }
  FrameHeader header;
  CHECK_EQ(ends.receiver->peek(header), Io::kBlocked);
}

void blocks_at_first(const ChannelParameter& parameter, Random&) {
  const ChannelEnds ends = parameter.make();
  FrameHeader header;
  Incoming incoming;
  CHECK_EQ(ends.receiver->peek(header), Io::kBlocked);
  CHECK_EQ(ends.receiver->try_recv(incoming), Io::kBlocked);
  CHECK(!incoming.done);
}

void frames_keep_order_and_content(const ChannelParameter& parameter, Random& random) {
  std::vector<uint64_t> sizes = {0, 1, 15, 16, 17, 63, 64, 65, 4095, 4096, 4097};
  for (int i = 0; i < 60; ++i) sizes.push_back(below(random, uint64_t{1} << below(random, 18)));
  sizes.push_back(below(random, 3 << 20));
  std::ranges::shuffle(sizes, random);
  exchange(parameter, sizes, random);
}

void many_small_frames(const ChannelParameter& parameter, Random& random) {
  std::vector<uint64_t> sizes(5000);
  std::ranges::generate(sizes, [&] { return below(random, 24); });
  exchange(parameter, sizes, random);
}

void empty_frames(const ChannelParameter& parameter, Random& random) {
  exchange(parameter, std::vector<uint64_t>(100, 0), random);
}

void ends_on_two_threads(const ChannelParameter& parameter, Random& random) {
  std::vector<uint64_t> sizes(300);
  std::ranges::generate(sizes, [&] { return below(random, uint64_t{1} << below(random, 17)); });
  const ChannelEnds ends = parameter.make();
  std::atomic<bool> stop = false;
  std::thread thread([&] {
    Source source(*ends.sender, parameter, sizes);
    while (!source.finished() && !stop)
      if (source.step() != Io::kMoved) std::this_thread::yield();
  });
  Sink sink(*ends.receiver);
  const TimeNs deadline = now_ns() + kPatience;
  try {
    while (sink.received() < sizes.size()) {
      if (sink.step() != Io::kMoved) std::this_thread::yield();
      CHECK(now_ns() < deadline);
    }
  } catch (...) {
    stop = true;
    thread.join();
    throw;
  }
  thread.join();
}

template <typename Element>
void add_elements(std::byte* target, const std::byte* source, std::size_t count) {
  CHECK_EQ(reinterpret_cast<uintptr_t>(target) % alignof(Element), 0U);
  CHECK_EQ(reinterpret_cast<uintptr_t>(source) % alignof(Element), 0U);
  auto* sums = reinterpret_cast<Element*>(target);
  const auto* terms = reinterpret_cast<const Element*>(source);
  for (std::size_t i = 0; i < count; ++i) sums[i] = static_cast<Element>(sums[i] + terms[i]);
}

template <typename Element>
void reduce_frame(const ChannelParameter& parameter, std::size_t count) {
  const ChannelEnds ends = parameter.make();
  const std::size_t size_bytes = count * sizeof(Element);
  const Memory terms = parameter.allocate(std::max<std::size_t>(size_bytes, 1));
  std::vector<Element> sums(count);
  for (std::size_t i = 0; i < count; ++i) {
    reinterpret_cast<Element*>(terms.get())[i] = static_cast<Element>(i % 7919);
    sums[i] = static_cast<Element>(3 * (i % 101));
  }
  Outgoing frame{.header = header_of(0, size_bytes),
                 .payload = terms.get(),
                 .single_copy = parameter.single_copy};
  Incoming incoming{.target = reinterpret_cast<std::byte*>(sums.data()),
                    .size_bytes = size_bytes,
                    .sink = {.reduce = add_elements<Element>, .element_size = sizeof(Element)}};
  FrameHeader header;
  const TimeNs deadline = now_ns() + kPatience;
  while (!frame.done || !incoming.done) {
    CHECK(frame.done || ends.sender->try_send(frame) != Io::kClosed);
    if (!incoming.done && ends.receiver->peek(header) == Io::kMoved)
      CHECK(ends.receiver->try_recv(incoming) != Io::kClosed);
    CHECK(now_ns() < deadline);
  }
  for (std::size_t i = 0; i < count; ++i)
    CHECK_EQ(sums[i], static_cast<Element>(3 * (i % 101) + i % 7919));
}

void reduces_on_arrival(const ChannelParameter& parameter, Random& random) {
  for (const std::size_t count :
       {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{5},
        std::size_t{below(random, 3000)}, std::size_t{70'000 + below(random, 100'000)}}) {
    reduce_frame<float>(parameter, count);
    reduce_frame<uint16_t>(parameter, count);
    reduce_frame<uint8_t>(parameter, count);
    reduce_frame<double>(parameter, count);
  }
}

// Sends until nothing moves any more. Returns the number of frames that have left.
uint64_t send_until_full(Source& source) {
  for (int refusals = 0; refusals < kRefusals && !source.finished();)
    refusals = source.step() == Io::kMoved ? 0 : refusals + 1;
  return source.sent();
}

void takes_in_no_more_than_its_bound(const ChannelParameter& parameter, Random& random) {
  constexpr uint64_t kFrame = 50'000;
  const std::vector<uint64_t> sizes(parameter.bound_bytes / kFrame + 4, kFrame);
  const ChannelEnds ends = parameter.make();
  Source source(*ends.sender, parameter, sizes);
  CHECK(send_until_full(source) * kFrame <= parameter.bound_bytes);
  Sink sink(*ends.receiver);
  const TimeNs deadline = now_ns() + kPatience;
  while (sink.received() < sizes.size()) {  // waiting has lost nothing
    CHECK((random() % 2 == 0 ? source.step() : sink.step()) != Io::kClosed);
    CHECK(now_ns() < deadline);
  }
}

// Every frame that left before the hang-up is received. At most one that had not is, too.
void reads_what_arrived_before_a_hang_up(const ChannelParameter& parameter, Random& random) {
  const std::vector<uint64_t> sizes(2 + parameter.bound_bytes / 1000, 1000 + below(random, 5000));
  const ChannelEnds ends = parameter.make();
  Source source(*ends.sender, parameter, sizes);
  const uint64_t sent = send_until_full(source);
  ends.sender->hang_up();
  Sink sink(*ends.receiver);
  const TimeNs deadline = now_ns() + kPatience;
  while (sink.step() != Io::kClosed) CHECK(now_ns() < deadline);
  CHECK(sink.received() >= sent);
  CHECK(sink.received() <= sent + 1);
  for (int i = 0; i < 5; ++i) {
    CHECK(source.step() != Io::kMoved);
    CHECK(sink.step() != Io::kMoved);
  }
}

void a_sender_learns_that_the_receiver_hung_up(const ChannelParameter& parameter, Random& random) {
  const ChannelEnds ends = parameter.make();
  Source source(*ends.sender, parameter, std::vector<uint64_t>(kForever, below(random, 300'000)));
  ends.receiver->hang_up();
  const TimeNs deadline = now_ns() + kPatience;
  while (source.step() != Io::kClosed) CHECK(now_ns() < deadline);
}

void a_destroyed_end_is_a_hang_up(const ChannelParameter& parameter, Random&) {
  const std::vector<uint64_t> sizes(kForever, 8);
  ChannelEnds ends = parameter.make();
  ends.sender.reset();
  Sink sink(*ends.receiver);
  const TimeNs deadline = now_ns() + kPatience;
  while (sink.step() != Io::kClosed) CHECK(now_ns() < deadline);
  ChannelEnds others = parameter.make();
  others.receiver.reset();
  Source source(*others.sender, parameter, sizes);
  while (source.step() != Io::kClosed) CHECK(now_ns() < deadline);
}

void hangs_up_from_any_thread(const ChannelParameter& parameter, Random& random) {
  const ChannelEnds ends = parameter.make();
  Source source(*ends.sender, parameter, std::vector<uint64_t>(kForever, below(random, 40'000)));
  Sink sink(*ends.receiver);
  std::atomic<bool> moving = false;
  const bool by_sender = random() % 2 == 0;
  std::thread thread([&] {
    while (!moving) std::this_thread::yield();
    if (by_sender) {
      ends.sender->hang_up();
    } else {
      ends.receiver->hang_up();
    }
  });
  const TimeNs deadline = now_ns() + kPatience;
  Io sent = Io::kMoved;
  Io received = Io::kMoved;
  std::string error;
  while (error.empty() && (sent != Io::kClosed || received != Io::kClosed)) {
    if (sent != Io::kClosed) sent = source.step();
    if (received != Io::kClosed) received = sink.step();
    moving = moving || sink.received() > 3;
    if (now_ns() > deadline) error = "no end saw the hang-up";
  }
  moving = true;
  thread.join();
  CHECK_EQ(error, "");
}

struct SuiteCase {
  const char* name;
  void (*body)(const ChannelParameter&, Random&);
};

constexpr SuiteCase kCases[] = {
    {"blocks_at_first", blocks_at_first},
    {"frames_keep_order_and_content", frames_keep_order_and_content},
    {"many_small_frames", many_small_frames},
    {"empty_frames", empty_frames},
    {"ends_on_two_threads", ends_on_two_threads},
    {"reduces_on_arrival", reduces_on_arrival},
    {"takes_in_no_more_than_its_bound", takes_in_no_more_than_its_bound},
    {"reads_what_arrived_before_a_hang_up", reads_what_arrived_before_a_hang_up},
    {"a_sender_learns_that_the_receiver_hung_up", a_sender_learns_that_the_receiver_hung_up},
    {"a_destroyed_end_is_a_hang_up", a_destroyed_end_is_a_hang_up},
    {"hangs_up_from_any_thread", hangs_up_from_any_thread},
};

// FASTGPU_TEST_SEED replays a failure.
void run_case(const SuiteCase& suite_case, const ChannelParameter& parameter, bool faulty) {
  // No test changes the environment. NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* given = std::getenv("FASTGPU_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : random_seed();
  Random random(seed);
  ChannelParameter under_test = parameter;
  if (faulty) {
    under_test.make = [&parameter, &random] {
      ChannelEnds ends = parameter.make();
      ends.sender =
          make_faulty(std::move(ends.sender), {.seed = random(), .block_probability = 0.3});
      ends.receiver =
          make_faulty(std::move(ends.receiver), {.seed = random(), .block_probability = 0.3});
      return ends;
    };
  }
  try {
    suite_case.body(under_test, random);
  } catch (const std::exception& error) {
    throw Failed(std::string(error.what()) + " (FASTGPU_TEST_SEED=" + std::to_string(seed) + ")");
  }
}

}  // namespace

Memory plain_memory(std::size_t size_bytes) {
  const std::size_t rounded = (size_bytes + 63) / 64 * 64;
  return {static_cast<std::byte*>(std::aligned_alloc(64, rounded)),
          [](std::byte* memory) { std::free(memory); }};
}

ChannelSuite::ChannelSuite(const ChannelParameter& parameter) {
  for (const bool faulty : {false, true}) {
    for (const SuiteCase& suite_case : kCases) {
      const std::string name = parameter.name + (faulty ? "_faulty." : ".") + suite_case.name;
      const Register registered("channels", name.c_str(), [&suite_case, parameter, faulty] {
        run_case(suite_case, parameter, faulty);
      });
    }
  }
}

}  // namespace fastgpu::test
