// Numbers replaced by what they are made of: a term says which ranks' contributions a value holds
// and in which order they were reduced; a memory says, by intervals of bytes, which term lies
// where and which byte of the contributors' input it belongs to.
//
// Ownership: a Memory holds ids of one Terms. Threading: one thread.
// Invariants: equal order of reduction <=> equal id; nothing is assumed to commute.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace fastgpu {

// What does not hold, in words; verify turns it into the counterexample.
struct ProofFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Terms {
 public:
  explicit Terms(int world);

  static int leaf(int rank) { return rank; }
  // left op right. ProofFailure when a rank's contribution is in both.
  int reduce(int left, int right);
  bool complete(int term) const;     // every rank is in it
  std::string show(int term) const;  // "((0+1)+2)"

 private:
  struct Node {
    int left = -1;
    int right = -1;
  };
  void append(int term, std::string& text) const;
  const uint64_t* members(int term) const {
    return &members_[static_cast<std::size_t>(term) * words_];
  }

  int world_;
  std::size_t words_;
  std::vector<Node> nodes_;
  std::vector<uint64_t> members_;            // a bit a rank, words_ words a term
  std::unordered_map<uint64_t, int> known_;  // (left, right) -> term
};

// Bytes begin .. end - 1; the byte at `begin` belongs to byte `origin` of the contributors' input.
struct Piece {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t origin = 0;
  int term = -1;

  bool operator==(const Piece&) const = default;
};

// Neighbours that continue each other become one, so that equal contents look equal.
std::vector<Piece> merged(const std::vector<Piece>& pieces);

class Memory {
 public:
  explicit Memory(uint64_t size_bytes) : size_bytes_(size_bytes) {}

  uint64_t size_bytes() const { return size_bytes_; }
  const std::vector<Piece>& pieces() const { return pieces_; }
  // The pieces of [begin, end), moved to begin at 0. ProofFailure where nothing was ever written.
  std::vector<Piece> read(uint64_t begin, uint64_t end) const;
  // Stores pieces that begin at 0 from `begin` on.
  void store(uint64_t begin, const std::vector<Piece>& value);
  // Reduces them into what is there.
  void reduce(uint64_t begin, const std::vector<Piece>& value, Terms& terms);

 private:
  uint64_t size_bytes_;
  std::vector<Piece> pieces_;  // by begin, disjoint; gaps were never written
};

}  // namespace fastgpu
