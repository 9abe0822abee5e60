#include "plan/proof/symbolic_run.h"

#include <algorithm>
#include <utility>

namespace fastgpu {
namespace {

std::string position_of(int rank, int lane, std::size_t index, const Step& step) {
  return "rank " + std::to_string(rank) + " lane " + std::to_string(lane) + " step " +
         std::to_string(index) + " " + describe(step);
}

}  // namespace

Region RankMemory::resolve(Region region) const {
  if (in_place && region.buffer == Buffer::kInput) {
    region.buffer = Buffer::kData;
    region.offset_bytes += input_in_data;
  }
  return region;
}

SymbolicRun::SymbolicRun(std::span<const Schedule> schedules, std::span<RankMemory> memories,
                         Terms& terms, int capacity, uint64_t seed)
    : schedules_(schedules),
      memories_(memories),
      terms_(terms),
      capacity_(static_cast<std::size_t>(capacity)),
      random_(seed),
      lanes_(static_cast<int>(schedules.front().lanes.size())) {
  for (int rank = 0; rank < static_cast<int>(schedules.size()); ++rank) {
    for (int lane = 0; lane < lanes_; ++lane) {
      Cursor& cursor = cursors_.emplace_back();
      cursor.rank = rank;
      cursor.lane = lane;
      cursor.clock = std::make_shared<VectorClock>(schedules.size());
    }
  }
}

std::size_t SymbolicRun::index_of(int rank, int lane) const {
  return static_cast<std::size_t>(rank) * static_cast<std::size_t>(lanes_) +
         static_cast<std::size_t>(lane);
}

const Lane& SymbolicRun::lane_of(const Cursor& cursor) const {
  return schedules_[static_cast<std::size_t>(cursor.rank)]
      .lanes[static_cast<std::size_t>(cursor.lane)];
}

// splitmix64 (Steele, Lea and Flood 2014): the same seed gives the same order on every machine.
uint64_t SymbolicRun::draw() {
  uint64_t mixed = (random_ += 0x9e3779b97f4a7c15);
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  return mixed ^ (mixed >> 31);
}

void SymbolicRun::shuffle(std::vector<std::size_t>& order) {
  for (std::size_t left = order.size(); left > 1; --left) {
    std::swap(order[left - 1], order[draw() % left]);
  }
}

void SymbolicRun::run() {
  std::vector<std::size_t> order(cursors_.size());
  for (std::size_t cursor = 0; cursor < order.size(); ++cursor) order[cursor] = cursor;
  for (bool moved = true; moved && !order.empty();) {
    moved = false;
    shuffle(order);
    for (const std::size_t cursor : order) moved = poll(cursors_[cursor]) || moved;
    std::erase_if(order, [&](std::size_t cursor) { return finished(cursors_[cursor]); });
  }
  if (!order.empty()) report_stop();
}

bool SymbolicRun::finished(const Cursor& cursor) const {
  return cursor.next == lane_of(cursor).size() && cursor.unreceived == 0;
}

bool SymbolicRun::poll(Cursor& cursor) {
  bool moved = send_posted(cursor);
  for (uint64_t steps = 1 + draw() % 4; steps > 0 && take_step(cursor); --steps) moved = true;
  return moved;
}

// Moves posted frames into channels that have room. The payload is read now, not when the send was
// posted.
bool SymbolicRun::send_posted(Cursor& cursor) {
  bool moved = false;
  if (capacity_ == 0 || cursor.unsent == 0) return false;
  for (auto& [peer, stream] : cursor.streams) {
    for (; stream.in_channel < std::min(capacity_, stream.frames.size()); ++stream.in_channel) {
      Frame& frame = stream.frames[stream.in_channel];
      frame.value = read(cursor.rank, frame.step->source);
      --cursor.unsent;
      moved = true;
    }
  }
  return moved;
}

bool SymbolicRun::take_step(Cursor& cursor) {
  const Lane& lane = lane_of(cursor);
  if (cursor.next == lane.size()) return false;
  const Step& step = lane[cursor.next];
  try {
    if (step.verb == Verb::kSend) {
      post(cursor, step);
    } else if (step.verb == Verb::kRecv) {
      if (!receive(cursor, step)) return false;
    } else {
      write(cursor, step, copied(cursor.rank, step));
    }
  } catch (const ProofFailure& failure) {
    throw ProofFailure(position_of(cursor.rank, cursor.lane, cursor.next, step) + ": " +
                       failure.what());
  }
  ++cursor.next;
  return true;
}

void SymbolicRun::post(Cursor& cursor, const Step& step) {
  const auto steps = static_cast<uint32_t>(cursor.next + 1);
  Frame frame{&step, cursor.posted.size(), cursor.clock, steps, cursor.round + 1, {}};
  if (step.source.size_bytes > 0) cursor.pending.push_back(cursor.posted.size());
  cursor.posted.push_back({step.source, step.peer, 0});
  cursor.streams[step.peer].frames.push_back(std::move(frame));
  ++cursor.unsent;
  ++cursor.unreceived;
}

bool SymbolicRun::receive(Cursor& cursor, const Step& step) {
  Cursor& sender = cursor_of(step.peer, cursor.lane);
  const auto found = sender.streams.find(cursor.rank);
  if (found == sender.streams.end()) return false;
  Stream& stream = found->second;
  if (stream.frames.empty() || (capacity_ > 0 && stream.in_channel == 0)) return false;
  Frame& frame = stream.frames.front();
  if (capacity_ == 0) frame.value = read(step.peer, frame.step->source);

  if (frame.step->source.size_bytes != step.target.size_bytes ||
      frame.step->ordinal != step.ordinal) {
    throw ProofFailure("gets frame " + std::to_string(frame.step->ordinal) + " of rank " +
                       std::to_string(step.peer) + ", " + describe(*frame.step) + ", for frame " +
                       std::to_string(step.ordinal) + ": ordinals or sizes differ");
  }
  if (cursor.clock.use_count() > 1) cursor.clock = std::make_shared<VectorClock>(*cursor.clock);
  VectorClock& clock = *cursor.clock;
  for (std::size_t rank = 0; rank < clock.size(); ++rank) {
    clock[rank] = std::max(clock[rank], (*frame.clock)[rank]);
  }
  uint32_t& of_sender = clock[static_cast<std::size_t>(step.peer)];
  of_sender = std::max(of_sender, frame.sender_steps);
  cursor.round = std::max(cursor.round, frame.round);
  rounds_ = std::max(rounds_, cursor.round);

  write(cursor, step, frame.value);
  sender.posted[frame.posted].received_at = static_cast<uint32_t>(cursor.next + 1);
  stream.frames.pop_front();
  --sender.unreceived;
  if (capacity_ > 0) --stream.in_channel;
  return true;
}

std::vector<Piece> SymbolicRun::read(int rank, const Region& region) const {
  if (region.size_bytes == 0) return {};
  const RankMemory& memory = memories_[static_cast<std::size_t>(rank)];
  const Region real = memory.resolve(region);
  try {
    return memory.buffers[static_cast<std::size_t>(real.buffer)].read(real.offset_bytes,
                                                                      real.end_bytes());
  } catch (const ProofFailure& failure) {
    throw ProofFailure("rank " + std::to_string(rank) + " " + failure.what());
  }
}

std::vector<Piece> SymbolicRun::copied(int rank, const Step& step) {
  std::vector<Piece> value = read(rank, step.source);
  if (step.coding == Coding::kEncode) {
    return {{0, step.target.size_bytes, 0, terms_.encode(value, step.target.size_bytes)}};
  }
  return step.coding == Coding::kDecode ? terms_.decode(value) : value;
}

void SymbolicRun::write(Cursor& cursor, const Step& step, const std::vector<Piece>& value) {
  if (step.target.size_bytes == 0) return;
  RankMemory& memory = memories_[static_cast<std::size_t>(cursor.rank)];
  const Region target = memory.resolve(step.target);
  if (step.verb != Verb::kRecv && !step.reduce && target == memory.resolve(step.source)) return;
  check_no_pending(cursor, target);
  SymbolicMemory& buffer = memory.buffers[static_cast<std::size_t>(target.buffer)];
  if (step.reduce) {
    buffer.reduce(target.offset_bytes, value, terms_);
    if (step.completes) complete(buffer, target);
  } else {
    buffer.store(target.offset_bytes, value);
  }
}

void SymbolicRun::complete(SymbolicMemory& buffer, const Region& target) {
  std::vector<Piece> value = buffer.read(target.offset_bytes, target.end_bytes());
  for (Piece& piece : value) piece.term = terms_.result_of(piece.term);
  buffer.store(target.offset_bytes, value);
}

void SymbolicRun::check_no_pending(Cursor& cursor, const Region& target) {
  const RankMemory& memory = memories_[static_cast<std::size_t>(cursor.rank)];
  std::erase_if(cursor.pending, [&](std::size_t index) {
    const Posted& sent = cursor.posted[index];
    const uint32_t known = (*cursor.clock)[static_cast<std::size_t>(sent.peer)];
    if (sent.received_at > 0 && known >= sent.received_at) return true;
    if (overlap(memory.resolve(sent.source), target)) {
      throw ProofFailure("writes under a pending send to rank " + std::to_string(sent.peer));
    }
    return false;
  });
}

bool SymbolicRun::heard_of(int rank, int other) const {
  for (int lane = 0; lane < lanes_; ++lane) {
    if ((*cursors_[index_of(rank, lane)].clock)[static_cast<std::size_t>(other)] > 0) return true;
  }
  return false;
}

void SymbolicRun::report_stop() const {
  constexpr int kShown = 4;
  std::string waiting;
  int shown = 0;
  for (const Cursor& cursor : cursors_) {
    const Lane& lane = lane_of(cursor);
    if (cursor.next == lane.size() || ++shown > kShown) continue;
    waiting += (shown > 1 ? "; " : "") +
               position_of(cursor.rank, cursor.lane, cursor.next, lane[cursor.next]);
  }
  if (shown > 0) {
    throw ProofFailure("deadlock: " + std::to_string(shown) + " lanes wait forever: " + waiting);
  }
  for (const Cursor& cursor : cursors_) {
    for (const auto& [peer, stream] : cursor.streams) {
      if (stream.frames.empty()) continue;
      throw ProofFailure("unmatched send: no rank receives " +
                         describe(*stream.frames.front().step) + " of rank " +
                         std::to_string(cursor.rank) + " lane " + std::to_string(cursor.lane));
    }
  }
  throw ProofFailure("the run stopped for an unknown reason");
}

}  // namespace fastgpu
