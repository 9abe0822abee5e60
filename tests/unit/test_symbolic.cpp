#include "check.h"
#include "plan/proof/symbolic.h"

namespace fastgpu::test {

TEST(terms_know_their_order_and_members) {
  Terms terms(70);
  const int left = terms.reduce(terms.reduce(0, 1), 69);
  CHECK_EQ(terms.show(left), "((0+1)+69)");
  CHECK_EQ(terms.reduce(terms.reduce(0, 1), 69), left);
  CHECK(terms.reduce(0, terms.reduce(1, 69)) != left);
  CHECK(terms.reduce(1, 0) != terms.reduce(0, 1));
  CHECK_THROWS(terms.reduce(left, terms.reduce(5, 69)), ProofFailure, "rank 69");
  CHECK(!terms.complete(left));
  int all = 0;
  for (int rank = 1; rank < 70; ++rank) all = terms.reduce(all, rank);
  CHECK(terms.complete(all));
  CHECK(!terms.is_result(all));
  CHECK_THROWS(terms.result_of(left), ProofFailure, "completes ((0+1)+69), not the sum of all");
  const int result = terms.result_of(all);
  CHECK(terms.is_result(result));
  CHECK_EQ(terms.result_of(all), result);
  CHECK_EQ(terms.show(result), terms.show(all));
  CHECK_THROWS(terms.reduce(result, 3), ProofFailure, "counted twice");
}

TEST(memory_cuts_and_joins_intervals) {
  SymbolicMemory memory(100);
  CHECK_THROWS(memory.read(0, 1), ProofFailure, "no step has written");
  memory.store(10, {{0, 40, 200, 1}});
  memory.store(20, {{0, 10, 0, 2}});
  const std::vector<Piece> expected{{0, 5, 205, 1}, {5, 15, 0, 2}, {15, 20, 220, 1}};
  CHECK(memory.read(15, 35) == expected);
  CHECK_THROWS(memory.read(40, 51), ProofFailure, "bytes [50, 51)");
  CHECK_THROWS(memory.read(5, 15), ProofFailure, "bytes [5, 15)");
  memory.store(20, {{0, 4, 210, 1}, {4, 10, 214, 1}});
  const std::vector<Piece> whole{{10, 50, 200, 1}};
  CHECK(memory.pieces().size() > 1);
  CHECK(merged(memory.pieces()) == whole);
}

TEST(reduction_wants_the_same_bytes) {
  Terms terms(3);
  SymbolicMemory memory(20);
  memory.store(0, {{0, 8, 0, 0}, {8, 20, 8, 1}});
  memory.reduce(4, {{0, 6, 4, 2}}, terms);
  CHECK_EQ(merged(memory.pieces()).size(), 4u);
  CHECK_EQ(terms.show(memory.read(8, 10).front().term), "(1+2)");
  CHECK_THROWS(memory.reduce(12, {{0, 2, 13, 2}}, terms), ProofFailure, "byte 13 of 2");
}

}  // namespace fastgpu::test
