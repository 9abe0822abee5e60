// What a collective costs: the profile of its schedule (profile.h), priced by the machine's
// constants (constants.h). No algorithm has a formula of its own. docs/cost.md explains the model.
//
// The same values give the same bits on every machine (basic arithmetic only, no contraction),
// because ranks choose algorithms by these prices and must never disagree.
//
// Ownership: a CostModel owns the profiles it has taken. Threading: one thread at a time; the free
// functions make a model of their own, any thread.
#pragma once

#include <cstdint>
#include <map>

#include "base/call.h"
#include "plan/cost/constants.h"
#include "plan/cost/placement.h"
#include "plan/cost/profile.h"

namespace fastgpu {

struct PriceRequest {
  Collective collective = Collective::kAllReduce;
  Algorithm algorithm = Algorithm::kRing;
  uint64_t bytes = 0;  // count * element size, count as in Call
  int lanes = 1;
  int shots = 0;  // as in PlanRequest
  uint64_t chunk_bytes = 256 * 1024;
  Codec codec = Codec::kNone;
  Placement placement;
};

struct Price {
  double us = 0;        // from the common start to the last rank's end; without the codec's work
  double least_us = 0;  // a bound that more lanes cannot go below
  double rounds = 0;    // frames that wait for each other, one after another
  double chunks = 1;    // of a pipeline, over all lanes; 1: no pipeline
  CodecWork codec;      // of the rank that has most
};

class CostModel {
 public:
  explicit CostModel(const Constants& constants) : constants_(constants) {}

  const Constants& constants() const { return constants_; }

  // Raises InvalidArgumentError for kAuto.
  Price price(const PriceRequest& request);

  // The chunk that makes a pipeline cheapest: enough chunks to fill it, few enough that their
  // latencies do not add up. A power of two from 4 to 256 KiB, which a cache holds. An algorithm
  // that is no pipeline gets the default.
  uint64_t best_chunk_bytes(PriceRequest request);

 private:
  // The profile's steps, taken `chunks` times; once for a whole call that is no pipeline.
  struct Pipeline {
    double chunk_bytes;
    double chunks;
  };
  const Profile& profile(const PriceRequest& request);
  double oversubscribed_us(const PriceRequest& request, const Price& alone,
                           const Pipeline& pipeline);

  Constants constants_;
  std::map<ProfileRequest, Profile> profiles_;
};

double predict_us(const PriceRequest& request, const Constants& constants);

// best_chunk_bytes() of the collective's tree; the default where it has none.
uint64_t tree_chunk_bytes(const PriceRequest& request, const Constants& constants);

}  // namespace fastgpu
