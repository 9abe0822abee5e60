#include "plan/proof/symbolic.h"

#include <algorithm>
#include <bit>

namespace fastgpu {
namespace {

constexpr std::size_t kWordBits = 64;
// In place of a node's right term: the left one was rounded, is encoded, or is complete.
constexpr int kRounded = -2;
constexpr int kEncoded = -3;
constexpr int kResult = -4;

std::string bytes_text(uint64_t begin, uint64_t end) {
  return "bytes [" + std::to_string(begin) + ", " + std::to_string(end) + ")";
}

}  // namespace

Terms::Terms(int world)
    : world_(world), words_((static_cast<std::size_t>(world) + kWordBits - 1) / kWordBits) {
  nodes_.resize(static_cast<std::size_t>(world));
  ranks_.resize(nodes_.size() * words_);
  for (std::size_t rank = 0; rank < nodes_.size(); ++rank) {
    ranks_[rank * words_ + rank / kWordBits] = uint64_t{1} << (rank % kWordBits);
  }
}

int Terms::reduce(int left, int right) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
  if (const auto found = known_.find(key); found != known_.end()) return found->second;
  if (frames_.contains(left) || frames_.contains(right)) {
    throw ProofFailure("reduces encoded bytes: " + show(left) + " + " + show(right));
  }
  for (std::size_t word = 0; word < words_; ++word) {
    const uint64_t both = ranks_of(left)[word] & ranks_of(right)[word];
    if (both != 0) {
      const auto rank = word * kWordBits + static_cast<std::size_t>(std::countr_zero(both));
      throw ProofFailure("the contribution of rank " + std::to_string(rank) +
                         " is counted twice: " + show(left) + " + " + show(right));
    }
  }
  const int term = add({left, right}, left, right);
  known_.emplace(key, term);
  return term;
}

// A new term with the contributions of two others.
int Terms::add(const Node& node, int left, int right) {
  const auto term = static_cast<int>(nodes_.size());
  ranks_.resize(ranks_.size() + words_);
  for (std::size_t word = 0; word < words_; ++word) {
    ranks_[static_cast<std::size_t>(term) * words_ + word] =
        ranks_of(left)[word] | ranks_of(right)[word];
  }
  nodes_.push_back(node);
  return term;
}

int Terms::round(int term, uint64_t frame_origin, uint64_t frame_elements_bytes) {
  const std::array key{static_cast<uint64_t>(term), frame_origin, frame_elements_bytes};
  if (const auto found = rounded_.find(key); found != rounded_.end()) return found->second;
  return rounded_[key] = add({term, kRounded}, term, term);
}

int Terms::result_of(int term) {
  if (!complete(term)) throw ProofFailure("completes " + show(term) + ", not the sum of all ranks");
  if (const auto found = results_.find(term); found != results_.end()) return found->second;
  return results_[term] = add({term, kResult}, term, term);
}

bool Terms::is_result(int term) const {
  const Node* node = &nodes_[static_cast<std::size_t>(term)];
  while (node->right == kRounded) node = &nodes_[static_cast<std::size_t>(node->left)];
  return node->right == kResult;
}

int Terms::encode(const std::vector<Piece>& value, uint64_t frame_bytes) {
  Frame frame{frame_bytes, value};
  int term = value.front().term;
  for (Piece& piece : frame.value) {
    if (frames_.contains(piece.term)) throw ProofFailure("encodes encoded bytes");
    piece.term = round(piece.term, value.front().origin, value.back().end);
    term = piece.term;
  }
  term = add({term, kEncoded}, term, term);
  frames_.emplace(term, std::move(frame));
  return term;
}

std::vector<Piece> Terms::decode(const std::vector<Piece>& frame) const {
  const auto found = frames_.find(frame.front().term);
  if (found == frames_.end()) throw ProofFailure("decodes bytes that are not encoded");
  const Piece whole{0, found->second.size_bytes, 0, frame.front().term};
  if (frame.size() != 1 || frame.front() != whole) {
    throw ProofFailure("decodes bytes that are not one whole frame");
  }
  return found->second.value;
}

bool Terms::complete(int term) const {
  if (frames_.contains(term)) return false;
  int ranks = 0;
  for (std::size_t word = 0; word < words_; ++word) ranks += std::popcount(ranks_of(term)[word]);
  return ranks == world_;
}

std::string Terms::show(int term) const {
  std::string text;
  append(term, text);
  return text;
}

void Terms::append(int term, std::string& text) const {
  const Node& node = nodes_[static_cast<std::size_t>(term)];
  if (node.left < 0) {
    text += std::to_string(term);
    return;
  }
  if (node.right == kResult) return append(node.left, text);
  if (node.right == kRounded || node.right == kEncoded) {
    text += node.right == kRounded ? "[" : "encoded";
    append(node.left, text);
    if (node.right == kRounded) text += ']';
    return;
  }
  text += '(';
  append(node.left, text);
  text += '+';
  append(node.right, text);
  text += ')';
}

std::vector<Piece> merged(const std::vector<Piece>& pieces) {
  std::vector<Piece> all;
  for (const Piece& piece : pieces) {
    if (!all.empty() && all.back().end == piece.begin && all.back().term == piece.term &&
        all.back().origin + (piece.begin - all.back().begin) == piece.origin) {
      all.back().end = piece.end;
    } else {
      all.push_back(piece);
    }
  }
  return all;
}

std::vector<Piece> SymbolicMemory::read(uint64_t begin, uint64_t end) const {
  std::vector<Piece> value;
  auto piece = std::partition_point(pieces_.begin(), pieces_.end(),
                                    [&](const Piece& other) { return other.end <= begin; });
  uint64_t at = begin;
  for (; piece != pieces_.end() && at < end && piece->begin <= at; ++piece) {
    const uint64_t stop = std::min(piece->end, end);
    value.push_back({at - begin, stop - begin, piece->origin + (at - piece->begin), piece->term});
    at = stop;
  }
  if (at < end) throw ProofFailure("reads " + bytes_text(at, end) + ", which no step has written");
  return value;
}

void SymbolicMemory::store(uint64_t begin, const std::vector<Piece>& value) {
  if (value.empty()) return;
  const uint64_t end = begin + value.back().end;
  auto first = std::partition_point(pieces_.begin(), pieces_.end(),
                                    [&](const Piece& piece) { return piece.end <= begin; });
  auto last = std::partition_point(first, pieces_.end(),
                                   [&](const Piece& piece) { return piece.begin < end; });
  std::vector<Piece> fresh;
  if (first != last && first->begin < begin) {
    fresh.push_back({first->begin, begin, first->origin, first->term});
  }
  for (const Piece& piece : value) {
    fresh.push_back({begin + piece.begin, begin + piece.end, piece.origin, piece.term});
  }
  if (first != last && std::prev(last)->end > end) {
    const Piece& cut = *std::prev(last);
    fresh.push_back({end, cut.end, cut.origin + (end - cut.begin), cut.term});
  }
  const auto common = std::min(static_cast<std::ptrdiff_t>(fresh.size()), last - first);
  first = std::copy(fresh.begin(), fresh.begin() + common, first);
  pieces_.insert(pieces_.erase(first, last), fresh.begin() + common, fresh.end());
}

void SymbolicMemory::reduce(uint64_t begin, const std::vector<Piece>& value, Terms& terms) {
  if (value.empty()) return;
  const std::vector<Piece> mine = read(begin, begin + value.back().end);
  std::vector<Piece> sum;
  auto left = mine.begin();
  auto right = value.begin();
  for (uint64_t at = 0; left != mine.end() && right != value.end();) {
    const uint64_t stop = std::min(left->end, right->end);
    const uint64_t origin = left->origin + (at - left->begin);
    const uint64_t other = right->origin + (at - right->begin);
    if (origin != other) {
      throw ProofFailure("reduces byte " + std::to_string(other) + " of " +
                         terms.show(right->term) + " into byte " + std::to_string(origin) + " of " +
                         terms.show(left->term));
    }
    sum.push_back({at, stop, origin, terms.reduce(left->term, right->term)});
    at = stop;
    if (left->end == stop) ++left;
    if (right->end == stop) ++right;
  }
  store(begin, sum);
}

}  // namespace fastgpu
