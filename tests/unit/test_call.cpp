// Calls as messages name them, and as they travel in headers.
#include "base/call.h"
#include "check.h"

namespace fastgpu::test {
namespace {

TEST(a_call_is_described_as_it_was_made) {
  Call call{.shape = {.collective = Collective::kAllReduce,
                      .dtype = DType::kFloat32,
                      .reduce_op = ReduceOp::kMax,
                      .count = 1024},
            .algorithm = Algorithm::kRing,
            .lanes = 2};
  CHECK_EQ(describe(call),
           "all_reduce(count=1024, dtype=float32, op=MAX, algorithm=ring, lanes=2)");
  call.shape.collective = Collective::kBroadcast;
  call.shape.root = 3;
  CHECK_EQ(describe(call), "broadcast(count=1024, dtype=float32, root=3, algorithm=ring, lanes=2)");
  CHECK_EQ(describe({.shape = {.collective = Collective::kAllToAll, .dtype = DType::kFloat32},
                     .algorithm = Algorithm::kDirect}),
           "all_to_all(count=by rank, dtype=float32, algorithm=direct, lanes=1)");
  CHECK_EQ(describe({.shape = {.collective = Collective::kBarrier}}), "barrier()");
}

TEST(a_widened_call_has_the_dtype_of_its_caller) {
  Call call{.shape = {.collective = Collective::kAllReduce,
                      .dtype = DType::kFloat32,
                      .count = 1024,
                      .codec = Codec::kInt8}};
  const auto plain = pack(call);
  call.shape.widened_from = DType::kBFloat16;
  CHECK(pack(call) != plain);
  const std::string text =
      "all_reduce(count=1024, dtype=bfloat16, op=SUM, algorithm=auto, codec=int8, lanes=1)";
  CHECK_EQ(describe(call), text);
  CHECK_EQ(describe(pack(call)), text);
}

TEST(a_call_survives_its_header) {
  Call call{.shape = {.collective = Collective::kReduce,
                      .dtype = DType::kBFloat16,
                      .reduce_op = ReduceOp::kMin,
                      .root = 65534,
                      .count = uint64_t{1} << 60,
                      .codec = Codec::kInt4},
            .algorithm = Algorithm::kTree,
            .lanes = 16};
  Call read;
  for (const int root : {65534, 0, kNoRoot}) {
    call.shape.root = root;
    CHECK(unpack(pack(call), read));
    CHECK(read == call);
  }
  for (int byte = 0; byte < 5; ++byte) {
    auto key = pack(call);
    key[0] |= uint64_t{0xff} << (8 * byte);  // not the number of any value
    CHECK(!unpack(key, read));
  }
}

}  // namespace
}  // namespace fastgpu::test
