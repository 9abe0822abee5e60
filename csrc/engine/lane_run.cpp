#include "engine/lane_run.h"

#include <algorithm>
#include <span>
#include <string>

#include "codec/codec.h"
#include "codec/random_key.h"
#include "kernels/reduce.h"
#include "plan/sums.h"

namespace fastgpu {
namespace {

void raise_if_departed(ChannelSource& channels, int peer, const Operation& operation) {
  if (!channels.departed(peer)) return;
  Failure failure;
  failure.kind = ErrorKind::kPeerLost;
  failure.peer = peer;
  failure.op = op_of(operation.task);
  failure.sequence = static_cast<int64_t>(operation.sequence);
  failure.message = "the connection to rank " + std::to_string(peer) + " is closed";
  raise(failure);
}

// Adds to an error of a channel which peer and which operation it concerns.
[[noreturn]] void raise_with_context(const CommError& error, int peer, const Operation& operation) {
  Failure failure = error.failure();
  failure.peer = peer;
  failure.op = op_of(operation.task);
  failure.sequence = static_cast<int64_t>(operation.sequence);
  failure.message = "rank " + std::to_string(peer) + ": " + failure.message;
  raise(failure);
}

template <typename Call>
Io call_channel(int peer, const Operation& operation, Call call) {
  try {
    return call();
  } catch (const CommError& error) {
    raise_with_context(error, peer, operation);
  }
}

std::string describe_frame(const FrameHeader& header) {
  return describe(header.key) + " as operation " + std::to_string(header.sequence);
}

}  // namespace

void LaneRun::start(Operation& operation, int lane) {
  operation_ = &operation;
  steps_ = &operation.task.schedule->lanes[static_cast<std::size_t>(lane)];
  lane_ = lane;
  next_ = 0;
  receiving_ = false;
  posted_.clear();
}

void LaneRun::clear() noexcept {
  operation_ = nullptr;
  posted_.clear();
}

LaneState LaneRun::poll(ChannelSource& channels) {
  bool moved = false;
  while (next_ < steps_->size()) {
    const Step& step = (*steps_)[next_];
    if (step.verb == Verb::kSend) {
      post(step, channels);
      moved = true;
    } else {
      // Posted sends leave before this rank waits for, or overwrites, anything.
      if (!posted_.empty()) moved |= flush(channels);
      // The proof of the schedule says that sends of this region have left by now. But a channel
      // may report it only at the next flush.
      if (is_posted(step.target)) return moved ? LaneState::kMoved : LaneState::kBlocked;
      if (step.verb != Verb::kRecv) {
        copy(step);
        moved = true;
      } else if (!receive(step, channels, &moved)) {
        return moved ? LaneState::kMoved : LaneState::kBlocked;
      }
    }
    ++next_;
  }
  if (!posted_.empty()) moved |= flush(channels);
  if (posted_.empty()) return LaneState::kDone;
  return moved ? LaneState::kMoved : LaneState::kBlocked;
}

FrameHeader LaneRun::header_of(const Step& step, uint64_t size_bytes) const {
  FrameHeader header;
  header.generation = operation_->task.generation;
  header.ordinal = step.ordinal;
  header.sequence = operation_->sequence;
  header.size_bytes = size_bytes;
  header.key = operation_->task.key;
  return header;
}

// Sends at once unless an earlier frame for the peer has not left. flush() sends the rest.
void LaneRun::post(const Step& step, ChannelSource& channels) {
  Outgoing frame;
  frame.header = header_of(step, step.source.size_bytes);
  frame.payload = operation_->source(step.source);
  frame.reply = step.reply;
  frame.single_copy = step.source.size_bytes >= operation_->task.single_copy_from_bytes;
  if (std::ranges::find(posted_, step.peer, &Posted::peer) == posted_.end()) {
    SendChannel* channel = channels.sender(step.peer, lane_);
    const Io io = send(channel, step.peer, frame);
    if (io == Io::kClosed) raise_if_departed(channels, step.peer, *operation_);
    if (frame.done) return;
  }
  posted_.push_back({step.peer, step.source, frame});
}

Io LaneRun::send(SendChannel* channel, int peer, Outgoing& frame) const {
  if (channel == nullptr) return Io::kBlocked;
  return call_channel(peer, *operation_, [&] { return channel->try_send(frame); });
}

bool LaneRun::flush(ChannelSource& channels) {
  bool moved = false;
  bool any_done = false;
  full_.clear();
  for (Posted& posted : posted_) {
    Outgoing& frame = posted.frame;
    if (!frame.taken && std::find(full_.begin(), full_.end(), posted.peer) != full_.end()) continue;
    SendChannel* channel = channels.sender(posted.peer, lane_);
    const Io io = send(channel, posted.peer, frame);
    if (io == Io::kClosed) raise_if_departed(channels, posted.peer, *operation_);
    moved |= io == Io::kMoved;
    any_done |= frame.done;
    if (!frame.taken && !frame.done) full_.push_back(posted.peer);
  }
  if (any_done) std::erase_if(posted_, [](const Posted& posted) { return posted.frame.done; });
  return moved;
}

bool LaneRun::receive(const Step& step, ChannelSource& channels, bool* moved) {
  RecvChannel* channel = channels.receiver(step.peer, lane_);
  if (channel == nullptr) return false;
  if (!receiving_) {
    FrameHeader header;
    const Io io = channel->peek(header);
    if (io == Io::kClosed) raise_if_departed(channels, step.peer, *operation_);
    if (io != Io::kMoved) return false;
    check(step, header);
    incoming_ = {};
    incoming_.target = operation_->target(step.target);
    incoming_.size_bytes = step.target.size_bytes;
    incoming_.sink = sink_of(step);
    if (step.reduce) incoming_.replies_with = sent_back_by_next(step);
    if (operation_->task.executor != nullptr) incoming_.is_continued = is_continued(*steps_, next_);
    receiving_ = true;
  }
  const Io io = call_channel(step.peer, *operation_, [&] { return channel->try_recv(incoming_); });
  if (io == Io::kClosed) raise_if_departed(channels, step.peer, *operation_);
  *moved |= io == Io::kMoved;
  receiving_ = !incoming_.done;
  return incoming_.done;
}

Sink LaneRun::sink_of(const Step& step) const {
  Sink sink;
  sink.element_size = operation_->task.element_size;
  if (step.last_use) sink.store = operation_->task.copy;
  if (step.reduce) {
    sink.reduce = operation_->task.reduce;
    sink.reduce_both = operation_->task.reduce_both;
    if (step.completes) sink.factor = operation_->task.factor;
    sink.dtype = operation_->task.call.shape.dtype;
  }
  return sink;
}

// 1 + the ordinal of the next step's frame, if that sends back to the peer what `step` receives.
uint32_t LaneRun::sent_back_by_next(const Step& step) const {
  if (next_ + 1 == steps_->size()) return 0;
  const Step& next = (*steps_)[next_ + 1];
  const bool sends_back =
      next.verb == Verb::kSend && next.peer == step.peer && next.source == step.target;
  return sends_back ? next.ordinal + 1 : 0;
}

void LaneRun::copy(const Step& step) const {
  if (step.coding != Coding::kPlain) return code(step);
  if (operation_->task.executor != nullptr) return enqueue(step);
  const std::byte* source = operation_->source(step.source);
  std::byte* target = operation_->target(step.target);
  const std::size_t size_bytes = step.source.size_bytes;
  Sink sink = sink_of(step);
  if (step.target.buffer == Buffer::kScratch) sink.store = operation_->task.staging_copy;
  if (step.reduce || source != target) sink.take(target, source, size_bytes);
}

void LaneRun::enqueue(const Step& step) const {
  const Task& task = operation_->task;
  const std::byte* source = operation_->source(step.source);
  std::byte* target = operation_->target(step.target);
  const std::size_t size_bytes = step.source.size_bytes;
  if (step.reduce) {
    task.executor->reduce(target, source, size_bytes,
                          {.dtype = task.call.shape.dtype,
                           .reduce_op = task.call.shape.reduce_op,
                           .factor = step.completes ? task.factor : 1,
                           .is_continued = is_continued(*steps_, next_)});
  } else if (source == target) {
    return;
  } else if (is_continued(*steps_, next_)) {
    task.executor->start_sum(target, source, size_bytes);
  } else if (is_set_aside(*steps_, next_)) {
    task.executor->set_aside(target, source, size_bytes);
  } else {
    task.executor->copy(target, source, size_bytes);
  }
}

void LaneRun::code(const Step& step) const {
  if (operation_->task.executor != nullptr) return enqueue_code(step);
  const TimeNs start = now_ns();
  if (step.coding == Coding::kEncode) {
    encode(step);
  } else if (step.coding == Coding::kDecode) {
    decode(step);
  } else {
    add_residual(step);
  }
  operation_->work.add_codec_time(now_ns() - start);
}

void LaneRun::enqueue_code(const Step& step) const {
  const Task& task = operation_->task;
  if (step.coding == Coding::kEncode) {
    const std::size_t first = step.source.offset_bytes / sizeof(float);
    EncodeLaunch launch{.codec = task.call.shape.codec,
                        .source = reinterpret_cast<const float*>(operation_->source(step.source)),
                        .target = operation_->target(step.target),
                        .count = step.source.size_bytes / sizeof(float)};
    if (task.residual.values != nullptr) launch.residual = task.residual.values + first;
    if (task.random_key.has_value()) launch.key = derived_key(*task.random_key, first);
    return task.executor->encode(launch);
  }
  if (step.coding == Coding::kAddResidual) {
    if (task.residual.values == nullptr) return;
    const std::size_t first = step.target.offset_bytes / sizeof(float);
    return task.executor->add_residual(
        {.values = reinterpret_cast<float*>(operation_->target(step.target)),
         .residual = task.residual.values + first,
         .count = step.target.size_bytes / sizeof(float)});
  }
  task.executor->decode({.codec = task.call.shape.codec,
                         .source = operation_->source(step.source),
                         .target = reinterpret_cast<float*>(operation_->target(step.target)),
                         .count = step.target.size_bytes / sizeof(float),
                         .adds = step.reduce,
                         .factor = step.completes ? task.factor : 1});
}

// The residual has a number for each element of data: the error of this rank's contribution, or of
// the sum where it is the rank that sums up. The next sum needs both.
void LaneRun::encode(const Step& step) const {
  const Task& task = operation_->task;
  const auto* source = reinterpret_cast<const float*>(operation_->source(step.source));
  std::byte* target = operation_->target(step.target);
  const std::size_t count = step.source.size_bytes / sizeof(float);
  const std::size_t first = step.source.offset_bytes / sizeof(float);
  encode_with(*task.codec, task.residual, task.random_key, first, {source, count}, target);
}

void LaneRun::decode(const Step& step) const {
  const CodecKernels& codec = *operation_->task.codec;
  const std::byte* source = operation_->source(step.source);
  auto* target = reinterpret_cast<float*>(operation_->target(step.target));
  const std::size_t count = step.target.size_bytes / sizeof(float);
  step.reduce ? codec.decode_add(source, target, count) : codec.decode(source, target, count);
  const double factor = step.completes ? operation_->task.factor : 1;
  if (factor != 1) {
    scale(operation_->target(step.target), count, DType::kFloat32, factor);
  }
}

void LaneRun::add_residual(const Step& step) const {
  auto* values = reinterpret_cast<float*>(operation_->target(step.target));
  fastgpu::add_residual(operation_->task.residual, step.target.offset_bytes / sizeof(float),
                        {values, step.target.size_bytes / sizeof(float)});
}

bool LaneRun::is_posted(const Region& target) const {
  return std::any_of(posted_.begin(), posted_.end(), [&](const Posted& posted) {
    return !posted.frame.done && overlap(posted.region, target);
  });
}

void LaneRun::check(const Step& step, const FrameHeader& header) const {
  const FrameHeader mine = header_of(step, step.target.size_bytes);
  if (header == mine) return;
  const int rank = operation_->task.rank;
  Failure failure;
  if (header.key == mine.key && header.sequence == mine.sequence) {
    const std::string me = "rank " + std::to_string(rank);
    failure = make_failure(ErrorKind::kMismatch,
                           "rank " + std::to_string(step.peer) + " sends " + me + " " +
                               std::to_string(header.size_bytes) + " bytes in " + describe_own() +
                               ", but " + me + " expects " + std::to_string(mine.size_bytes) +
                               "; what a rank sends another and what that one expects must agree",
                           step.peer);
  } else {
    failure = mismatch_of(step.peer, describe_frame(header), rank, describe_own());
  }
  failure.op = op_of(operation_->task);
  failure.sequence = static_cast<int64_t>(operation_->sequence);
  raise(failure);
}

std::string LaneRun::describe_own() const {
  return describe(operation_->task) + " as operation " + std::to_string(operation_->sequence);
}

int LaneRun::waiting_for() const noexcept {
  if (operation_ == nullptr) return kNoRank;
  if (next_ < steps_->size()) return (*steps_)[next_].peer;
  return posted_.empty() ? kNoRank : posted_.front().peer;
}

bool LaneRun::has_heard_from(int peer) const noexcept {
  const auto heard = std::span(*steps_).first(next_);
  if (receiving_ && (*steps_)[next_].peer == peer) return true;
  return std::ranges::any_of(
      heard, [peer](const Step& step) { return step.verb == Verb::kRecv && step.peer == peer; });
}

}  // namespace fastgpu
