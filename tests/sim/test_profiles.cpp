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
  const uint64_t count = 2 * world * std::bit_floor(world) * static_cast<uint64_t>(request.lanes);
  plan.count = request.collective == Collective::kBarrier ? 0 : count;
  plan.lanes = request.lanes;
  plan.shots = request.shots;
  plan.chunk_bytes = count / static_cast<uint64_t>(request.lanes);
  plan.host_of = host_of;
  const Proof proof = verify(plan);
  CHECK_EQ(proof.counterexample, "");
  CHECK_EQ(profile.rounds, proof.rounds);
  for (std::size_t rank = 0; rank < profile.ranks.size(); ++rank) {
    const RankWork& work = profile.ranks[rank];
    const double bytes = work.same_host.bytes_sent + work.between_hosts.bytes_sent;
    CHECK_EQ(static_cast<uint64_t>(std::llround(bytes * static_cast<double>(count))),
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
