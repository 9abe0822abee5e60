// Profiles against the symbolic proofs of the same schedules.
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "plan/cost/profile.h"
#include "schedule_cases.h"

using namespace fastgpu;

namespace {

void check_against_proof(const ProfileRequest& request) {
  const auto world = static_cast<uint64_t>(request.placement.world);
  const Profile profile = profile_of(request);
  PlanRequest plan =
      test::request_of(request.collective, request.algorithm, request.placement.world, 0);
  const std::vector<int> host_of = hosts_of(request.placement);
  const bool coded = request.codec != Codec::kNone;
  const uint64_t parts = 2 * world * static_cast<uint64_t>(request.lanes);
  const uint64_t count = parts * (coded ? kTopkBlock : std::bit_floor(world));
  const uint64_t call_bytes = count * (coded ? sizeof(float) : 1);
  plan.count = request.collective == Collective::kBarrier ? 0 : count;
  plan.lanes = request.lanes;
  plan.shots = request.shots;
  plan.codec = request.codec;
  plan.element_size = coded ? sizeof(float) : 1;
  plan.chunk_bytes = call_bytes / static_cast<uint64_t>(request.lanes);
  plan.host_of = host_of;
  const Proof proof = verify(plan);
  CHECK_EQ(proof.counterexample, "");
  CHECK_EQ(profile.rounds, proof.rounds);
  for (std::size_t rank = 0; rank < profile.ranks.size(); ++rank) {
    const RankWork& work = profile.ranks[rank];
    const double bytes = work.same_host.bytes_sent + work.between_hosts.bytes_sent;
    CHECK_EQ(static_cast<uint64_t>(std::llround(bytes * static_cast<double>(call_bytes))),
             proof.bytes_sent[rank]);
    CHECK_EQ(static_cast<uint64_t>(work.same_host.frames_sent + work.between_hosts.frames_sent),
             proof.frames_sent[rank]);
  }
}

}  // namespace

TEST(profiles_say_what_is_proven) {
  uint64_t number = 0;
  test::for_each_builder([&](Collective collective, Algorithm algorithm) {
    for (const int world : {2, 3, 4, 5, 7, 8, 12, 16, 24, 33}) {
      for (const int ranks_per_host : {world, 4}) {
        for (const int lanes : {1, 2}) {
          if (number++ % test::kStride != 0) continue;
          std::vector<int> host_of;
          for (int rank = 0; rank < world; ++rank) host_of.push_back(rank / ranks_per_host);
          ProfileRequest request{.collective = collective,
                                 .algorithm = algorithm,
                                 .lanes = lanes,
                                 .placement = placement_of(world, host_of)};
          if (algorithm != Algorithm::kDirect || collective != Collective::kAllReduce) {
            check_against_proof(request);
            continue;
          }
          for (const int shots : {1, 2}) {
            request.shots = shots;
            check_against_proof(request);
          }
        }
      }
    }
  });
}

TEST(profiles_of_encoded_all_reduces_say_what_is_proven) {
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kHierarchical}) {
    for (const int world : {2, 4, 7, 12}) {
      for (const Codec codec : {Codec::kBFloat16, Codec::kInt4, Codec::kTopk}) {
        const std::vector<int> host_of = test::uneven_hosts(world, 3, false);
        ProfileRequest request{.algorithm = algorithm,
                               .shots = algorithm == Algorithm::kDirect ? 2 : 0,
                               .codec = codec,
                               .placement = placement_of(world, host_of)};
        check_against_proof(request);
      }
    }
  }
}
