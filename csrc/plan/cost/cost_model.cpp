#include "plan/cost/cost_model.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "plan/builders/direct.h"
#include "plan/cost/critical_path.h"

namespace fastgpu {
namespace {

constexpr uint64_t kLeastChunkBytes = 4 * 1024;
constexpr uint64_t kMostChunkBytes = 256 * 1024;

// No more lanes make a call quicker than the mean processor, or the busiest interface.
double least_us(const Profile& profile, const Constants& constants, double bytes, int world) {
  double least = total_work_us(profile, constants, bytes) / world;
  for (const RankWork& work : profile.ranks) {
    least = std::max(least, interface_us(work, constants, bytes));
  }
  return least;
}

CodecWork most_codec_work(const Profile& profile, double bytes) {
  CodecWork most;
  for (const RankWork& work : profile.ranks) {
    if (work.codec.all() > most.all()) most = work.codec;
  }
  return {bytes * most.encoded, bytes * most.decoded, bytes * most.added};
}

double payloads_per_rank(const Profile& profile, int world) {
  double payloads = 0;
  for (std::size_t i = 0; i < profile.ranks.size(); ++i) {
    payloads += profile.weights[i] * profile.ranks[i].payloads_received;
  }
  return payloads / world;
}

}  // namespace

const Profile& CostModel::profile(const PriceRequest& request) {
  if (request.algorithm == Algorithm::kAuto) {
    raise(ErrorKind::kInvalidArgument, "predict_us: auto has no price; name an algorithm");
  }
  ProfileRequest key{.collective = request.collective,
                     .algorithm = request.algorithm,
                     .shots = request.shots,
                     .lanes = std::max(1, request.lanes),
                     .codec = request.codec,
                     .merges_sums = constants_.is_gpu,
                     .placement = request.placement};
  if (request.bytes == 0) {  // every collective without bytes is a barrier
    key.collective = Collective::kBarrier;
    key.algorithm = Algorithm::kDirect;
    key.codec = Codec::kNone;
  }
  const bool has_shots =
      key.collective == Collective::kAllReduce && key.algorithm == Algorithm::kDirect;
  if (has_shots && key.codec != Codec::kNone) {
    key.shots = 2;
  } else if (has_shots) {
    key.shots = takes_one_shot(request.bytes, request.placement.world, request.shots) ? 1 : 2;
  }
  key.placement.most_per_machine = 0;  // the schedule does not depend on it
  const auto found = profiles_.find(key);
  if (found != profiles_.end()) return found->second;
  return profiles_.emplace(key, profile_of(key)).first->second;
}

Price CostModel::price(const PriceRequest& request) {
  const Profile& found = profile(request);
  const auto all = static_cast<double>(request.bytes);
  const double chunk = std::max(1, request.lanes) * static_cast<double>(request.chunk_bytes);
  const bool in_chunks = found.pipelined && all > chunk;
  const double bytes = in_chunks ? chunk : all;
  const double chunks = in_chunks ? std::ceil(all / chunk) : 1;
  Price price{.us = critical_path_us(found, constants_, bytes),
              .least_us = least_us(found, constants_, all, request.placement.world),
              .rounds = found.rounds + chunks - 1,
              .chunks = found.pipelined ? chunks * request.lanes : 1,
              .codec = most_codec_work(found, all)};
  price.us += (chunks - 1) * busiest_us(found, constants_, bytes);
  if (!oversubscribed(request.placement, constants_)) return price;
  price.us = oversubscribed_us(request, price, {bytes, chunks});
  return price;
}

// Cores are scarce, and a waiting rank yields its core to another. So the price is that of the work
// of all ranks, spread over the cores, plus a share of the critical path (R. L. Graham, "Bounds on
// multiprocessing timing anomalies", 1969). `alone`: the price with a core for every rank.
double CostModel::oversubscribed_us(const PriceRequest& request, const Price& alone,
                                    const Pipeline& pipeline) {
  const Profile& found = profile(request);
  const Placement& placement = request.placement;
  const double sharing =
      static_cast<double>(placement.most_per_machine) / constants_.cores_per_host;
  // A core moves whole frames. If every rank moves some in each round, then a core with one frame
  // more holds up all ranks. Three ranks on two cores with a frame each take as long as four.
  const double frames =
      pipeline.chunks * payloads_per_rank(found, placement.world) / std::max(1.0, alone.rounds);
  const double uneven = frames < 1 ? 1 : std::ceil(frames * sharing - 1e-9) / (frames * sharing);
  const double work = pipeline.chunks * total_work_us(found, constants_, pipeline.chunk_bytes) /
                      placement.world * sharing * uneven;
  // In each round a receiver waits for its turn: the other ranks of its core poll once and yield.
  const LinkCosts& link = constants_.link(placement.hosts > 1);
  const double turn = (sharing - 1) * (constants_.switch_us + link.overhead_us);
  return std::max(alone.us, work + (1 - 1 / sharing) * alone.us) + alone.rounds * turn;
}

uint64_t CostModel::best_chunk_bytes(PriceRequest request) {
  if (!profile(request).pipelined) return PriceRequest{}.chunk_bytes;
  uint64_t best = kLeastChunkBytes;
  double best_us = 0;
  for (uint64_t bytes = kLeastChunkBytes; bytes <= kMostChunkBytes; bytes *= 2) {
    request.chunk_bytes = bytes;
    const double us = price(request).us;
    if (bytes > kLeastChunkBytes && us >= best_us) continue;
    best = bytes;
    best_us = us;
  }
  return best;
}

double predict_us(const PriceRequest& request, const Constants& constants) {
  return CostModel(constants).price(request).us;
}

uint64_t tree_chunk_bytes(const PriceRequest& request, const Constants& constants) {
  PriceRequest tree = request;
  tree.algorithm = Algorithm::kTree;
  const auto known = algorithms_of(request.collective);
  if (std::find(known.begin(), known.end(), Algorithm::kTree) == known.end()) {
    return PriceRequest{}.chunk_bytes;
  }
  return CostModel(constants).best_chunk_bytes(tree);
}

}  // namespace fastgpu
