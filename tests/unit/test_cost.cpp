#include <array>
#include <cmath>
#include <string>

#include "base/error.h"
#include "check.h"
#include "plan/cost/cost_model.h"

using namespace fastgpu;

namespace {

// Hockney's machine: links cost alpha + beta*s and processors nothing, so textbook forms are exact.
Constants links_only(double alpha, double beta) {
  Constants c;
  c.same_host = {.alpha_us = alpha, .beta_us_per_byte = beta};
  c.between_hosts = c.same_host;
  c.nic_us_per_byte = c.copy_us_per_byte = c.reduce_us_per_byte = 0;
  return c;
}

Placement one_host(int world) { return placement_of(world, {}); }

double all_reduce_us(Algorithm algorithm, int world, uint64_t bytes, const Constants& constants) {
  return predict_us({.algorithm = algorithm, .bytes = bytes, .placement = one_host(world)},
                    constants);
}

bool near(double left, double right, double relative = 1e-9) {
  return std::abs(left - right) <= relative * std::max(std::abs(left), std::abs(right));
}

}  // namespace

TEST(constants_survive_their_text) {
  Constants constants;
  constants.same_host.alpha_us = 1.0 / 3.0;
  constants.between_hosts.beta_us_per_byte = 3.0000000000000004e-7;
  constants.nic_us_per_byte = 1e-300;
  constants.cores_per_host = 96;
  CHECK(constants_from_text(to_text(constants)) == constants);
  CHECK(constants_from_text(to_text(Constants{})) != constants);
}

TEST(constants_refuse_other_text) {
  const std::string good = to_text(Constants{});
  CHECK_THROWS(constants_from_text(""), InvalidArgumentError, "costs of links");
  CHECK_THROWS(constants_from_text(good + " "), InvalidArgumentError, "costs of links");
  CHECK_THROWS(constants_from_text(good + " 1"), InvalidArgumentError, "costs of links");
  CHECK_THROWS(constants_from_text(good.substr(0, good.rfind(' '))), InvalidArgumentError, "costs");
  std::string negative = good;
  negative.insert(negative.find(' ') + 1, 1, '-');
  CHECK_THROWS(constants_from_text(negative), InvalidArgumentError, "costs of links");
  CHECK_THROWS(constants_from_text("other" + good), InvalidArgumentError, "costs of links");
}

TEST(placement_counts_hosts) {
  const std::array<int, 7> host_of{0, 0, 0, 1, 2, 2, 1};
  const Placement placement = placement_of(7, host_of);
  CHECK_EQ(placement.hosts, 3);
  CHECK_EQ(placement.most_per_host, 3);
  CHECK_EQ(placement.fewest_per_host, 2);
  CHECK_EQ(placement_of(5, {}).fewest_per_host, 5);
}

TEST(ring_costs_what_the_book_says) {
  const Constants c = links_only(7, 0.25);
  for (const int n : {2, 3, 8, 100}) {
    CHECK(near(all_reduce_us(Algorithm::kRing, n, 4000, c), 2 * (n - 1) * (7 + 0.25 * 4000 / n)));
  }
}

TEST(halving_costs_what_the_book_says) {
  const Constants c = links_only(7, 0.25);
  for (const int n : {2, 4, 64}) {
    const double rounds = std::log2(n);
    CHECK(near(all_reduce_us(Algorithm::kHalving, n, 4096, c),
               2 * rounds * 7 + 2 * (n - 1) * 0.25 * 4096 / n));
  }
  // A rank over a power of two costs one more exchange of everything on either side.
  CHECK(near(all_reduce_us(Algorithm::kHalving, 5, 4096, c),
             all_reduce_us(Algorithm::kHalving, 4, 4096, c) + 2 * (7 + 0.25 * 4096)));
}

TEST(direct_pays_one_latency_a_shot) {
  const Constants c = links_only(7, 0.25);
  CHECK(near(all_reduce_us(Algorithm::kDirect, 9, 9000, c), 7 + 0.25 * 9000));
  CHECK(near(all_reduce_us(Algorithm::kDirect, 9, 900000, c), 2 * (7 + 0.25 * 100000)));
}

TEST(a_ring_over_hosts_waits_for_the_border_in_proportion) {
  const std::array<int, 4> host_of{0, 0, 1, 1};
  Constants c = links_only(1, 0);
  c.between_hosts.alpha_us = 21;
  const PriceRequest request{.bytes = 8, .placement = placement_of(4, host_of)};
  CHECK(near(predict_us(request, c), 2 * 3 * (1 + 21) / 2.0));
}

TEST(tree_pays_for_its_height_once_and_then_for_chunks) {
  const Constants c = links_only(7, 0.25);
  PriceRequest request{.algorithm = Algorithm::kTree,
                       .bytes = 10 * 1024,
                       .chunk_bytes = 1024,
                       .placement = one_host(16)};
  const double ten = predict_us(request, c);
  CHECK(near(ten, 2 * 4 * (7 + 256) + 9 * 256));
  request.bytes = 11 * 1024;
  CHECK(near(predict_us(request, c) - ten, 256));
}

TEST(reduction_and_oversubscription_cost_processor_time) {
  Constants c;
  const double before = all_reduce_us(Algorithm::kRing, 4, 64 << 20, c);
  c.reduce_us_per_byte *= 10;
  const double slower = all_reduce_us(Algorithm::kRing, 4, 64 << 20, c);
  CHECK(slower > before * 1.1);
  c.cores_per_host = 2;  // four ranks on two cores
  // Each core has twice the work, and half of a rank's work delays another rank.
  CHECK(near(all_reduce_us(Algorithm::kRing, 4, 64 << 20, c), 2.5 * slower, 0.01));
  c.cores_per_host = 4;
  CHECK(near(all_reduce_us(Algorithm::kRing, 4, 64 << 20, c), slower));
}

TEST(a_shared_interface_is_shared) {
  const std::array<int, 8> host_of{0, 0, 0, 0, 1, 1, 1, 1};
  Constants c = links_only(1, 1e-4);
  c.nic_us_per_byte = 1e-3;
  PriceRequest request{
      .algorithm = Algorithm::kDirect, .bytes = 8 << 20, .placement = placement_of(8, host_of)};
  // 4 ranks send a shard of 1 MiB to each of 4 ranks of the other host, twice.
  CHECK(near(predict_us(request, c), 2 * (1 + 16 * (1 << 20) * 1e-3)));
  request.algorithm = Algorithm::kHierarchical;  // each shard of 2 MiB crosses once each way
  CHECK(near(predict_us(request, c), 2 * (1 + (2 << 20) * 1e-4) + 2 * (1 + (4 << 20) * 1e-3)));
}

TEST(auto_has_no_price) {
  CHECK_THROWS(all_reduce_us(Algorithm::kAuto, 2, 8, Constants{}), InvalidArgumentError, "auto");
}
