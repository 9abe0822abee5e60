// Symbolic values: bytes that record their origin instead of numbers.
//
// The value of a byte has two parts. The term, such as ((0+1)+2), says whose contributions were
// reduced, and in which order. The origin is the position of the byte in the contributors' inputs.
// Terms stores the terms; a SymbolicMemory stores terms and origins by intervals of bytes, so a
// gigabyte with one term costs as much as a byte.
//
// An encoded frame is one piece whose term stands for all that was encoded. Decoding it gives back
// the same bytes, rounded: [(0+1)] is the sum of 0 and 1 after an encoding. The same term encoded
// in another frame rounds to another term, because the elements of a frame share scales.
//
// Invariant: two terms have equal ids if and only if their order of reduction is equal. No
// operation is assumed to be associative or commutative.
//
// Ownership: a SymbolicMemory stores ids of one Terms object. Threading: one thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace fastgpu {

// A rule that a schedule breaks, in words. verify() turns it into a counterexample.
struct ProofFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The bytes begin .. end - 1 of a memory. The byte at `begin` stands for byte `origin` of the
// contributors' inputs.
struct Piece {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t origin = 0;
  int term = -1;

  bool operator==(const Piece&) const = default;
};

class Terms {
 public:
  explicit Terms(int world);

  static int leaf(int rank) { return rank; }  // the contribution of one rank
  // left op right. Throws ProofFailure if both contain the contribution of the same rank.
  int reduce(int left, int right);
  // The term of a result. Throws ProofFailure unless `term` has the contributions of all ranks.
  int result_of(int term);
  bool is_result(int term) const;  // result_of() or a rounding of it
  // The term of a frame of `frame_bytes` that holds `value`, encoded.
  int encode(const std::vector<Piece>& value, uint64_t frame_bytes);
  // What the frame holds. Throws ProofFailure if the value is not exactly one encoded frame.
  std::vector<Piece> decode(const std::vector<Piece>& frame) const;
  bool complete(int term) const;     // whether it contains the contributions of all ranks
  std::string show(int term) const;  // "((0+1)+2)"; a result is shown as what it is the result of

 private:
  struct Node {
    int left = -1;
    int right = -1;
  };
  struct Frame {
    uint64_t size_bytes = 0;
    std::vector<Piece> value;  // rounded
  };
  int add(const Node& node, int left, int right);
  int round(int term, uint64_t frame_origin, uint64_t frame_elements_bytes);
  void append(int term, std::string& text) const;
  const uint64_t* ranks_of(int term) const {
    return &ranks_[static_cast<std::size_t>(term) * words_];
  }

  int world_;
  std::size_t words_;                               // 64-bit words for one bit per rank
  std::vector<Node> nodes_;                         // by term
  std::vector<uint64_t> ranks_;                     // by term, `words_` each: the ranks in it
  std::unordered_map<uint64_t, int> known_;         // (left, right) -> term
  std::unordered_map<int, int> results_;            // term -> result
  std::map<std::array<uint64_t, 3>, int> rounded_;  // (term, begin and size of the frame) -> term
  std::map<int, Frame> frames_;                     // by the term that stands for the frame
};

// Joins adjacent pieces where possible, so that equal contents have equal pieces.
std::vector<Piece> merged(const std::vector<Piece>& pieces);

class SymbolicMemory {
 public:
  explicit SymbolicMemory(uint64_t size_bytes) : size_bytes_(size_bytes) {}

  uint64_t size_bytes() const { return size_bytes_; }
  const std::vector<Piece>& pieces() const { return pieces_; }
  // Returns the pieces of [begin, end), with positions relative to `begin`. Throws ProofFailure if
  // a byte was never written.
  std::vector<Piece> read(uint64_t begin, uint64_t end) const;
  // Stores a value that read() returned, at `begin`.
  void store(uint64_t begin, const std::vector<Piece>& value);
  // Like store(), but reduces the value into the bytes that are there. Throws ProofFailure if the
  // two do not stand for the same bytes of the inputs.
  void reduce(uint64_t begin, const std::vector<Piece>& value, Terms& terms);

 private:
  uint64_t size_bytes_;
  std::vector<Piece> pieces_;  // disjoint, sorted by `begin`; gaps were never written
};

}  // namespace fastgpu
