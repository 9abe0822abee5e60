// The choice against times that a machine with two cores took for every algorithm, with constants
// of that machine: as set-up measures them, and with hops that seem a quarter shorter, or up to
// three times as long, as they do where ranks share cores at that moment.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "check.h"
#include "plan/choose.h"

using namespace fastgpu;

namespace {

// all_reduce of float32; times over the best one's.
struct Measured {
  bool tcp;
  int world;
  uint64_t bytes;
  std::array<double, 5> over_best;  // ring, one-shot, two-shot, tree, halving

  double of(const Choice& choice) const {
    switch (choice.algorithm) {
      case Algorithm::kRing:
        return over_best[0];
      case Algorithm::kTree:
        return over_best[3];
      case Algorithm::kHalving:
        return over_best[4];
      default:
        return over_best[choice.shots == 1 ? 1 : 2];
    }
  }
};

// Medians of rounds in which all took turns, of one start each; 9: not measured, too slow.
constexpr std::array kMeasured = std::to_array<Measured>({
    {false, 2, 8, {1.03, 1.00, 1.04, 1.05, 1.04}},
    {false, 2, 4096, {1.03, 1.00, 1.04, 1.06, 1.04}},
    {false, 2, 16384, {1.00, 1.05, 1.03, 1.07, 1.01}},
    {false, 2, 65536, {1.00, 1.16, 1.08, 1.12, 1.00}},
    {false, 2, 262144, {1.00, 9, 1.18, 1.12, 1.00}},
    {false, 2, 1048576, {1.02, 9, 1.23, 1.00, 1.03}},
    {false, 2, 16777216, {1.00, 9, 1.22, 1.06, 1.18}},
    {false, 4, 8, {1.31, 1.00, 1.21, 1.52, 1.23}},
    {false, 4, 4096, {1.29, 1.00, 1.20, 1.53, 1.36}},
    {false, 4, 16384, {1.26, 1.00, 1.02, 1.15, 1.18}},
    {false, 4, 65536, {1.33, 1.21, 1.00, 1.10, 1.10}},
    {false, 4, 262144, {1.10, 9, 1.00, 1.32, 1.01}},
    {false, 4, 1048576, {1.00, 9, 1.03, 1.28, 1.02}},
    {false, 4, 16777216, {1.00, 9, 1.02, 1.09, 1.03}},
    {false, 8, 8, {1.61, 1.00, 1.13, 1.26, 1.33}},
    {false, 8, 4096, {2.28, 1.00, 1.19, 1.46, 1.35}},
    {false, 8, 16384, {2.22, 1.20, 1.00, 1.34, 1.15}},
    {false, 8, 65536, {1.51, 1.68, 1.00, 1.60, 1.25}},
    {false, 8, 262144, {1.17, 9, 1.00, 1.91, 1.25}},
    {false, 8, 1048576, {1.00, 9, 1.09, 1.07, 1.15}},
    {false, 8, 16777216, {1.00, 9, 1.08, 1.08, 1.08}},
    {true, 2, 8, {1.65, 1.00, 1.65, 1.43, 1.64}},
    {true, 2, 4096, {1.63, 1.00, 1.63, 1.45, 1.63}},
    {true, 2, 16384, {1.62, 1.00, 1.62, 1.46, 1.62}},
    {true, 2, 65536, {1.23, 1.00, 1.25, 1.17, 1.23}},
    {true, 2, 262144, {1.00, 9, 1.02, 1.09, 1.00}},
    {true, 2, 1048576, {1.00, 9, 1.07, 1.21, 1.00}},
    {true, 2, 16777216, {1.06, 9, 1.35, 1.00, 1.06}},
    {true, 4, 8, {1.95, 1.05, 1.22, 1.03, 1.00}},
    {true, 4, 4096, {2.23, 1.04, 1.68, 1.00, 1.36}},
    {true, 4, 16384, {2.13, 1.02, 1.63, 1.00, 1.31}},
    {true, 4, 65536, {2.11, 1.32, 1.40, 1.00, 1.08}},
    {true, 4, 262144, {1.31, 9, 1.22, 1.00, 1.15}},
    {true, 4, 1048576, {1.09, 9, 1.08, 1.00, 1.15}},
    {true, 4, 16777216, {1.06, 9, 1.24, 1.13, 1.00}},
    {true, 8, 8, {4.34, 2.77, 1.37, 1.01, 1.00}},
    {true, 8, 512, {3.53, 2.58, 3.44, 1.00, 2.07}},
    {true, 8, 16384, {3.59, 1.37, 3.41, 1.00, 1.45}},
    {true, 8, 65536, {2.92, 1.64, 2.34, 1.00, 1.24}},
    {true, 8, 262144, {1.44, 9, 1.20, 1.00, 1.02}},
    {true, 8, 1048576, {1.05, 9, 1.09, 1.07, 1.00}},
    {true, 8, 16777216, {1.09, 9, 1.28, 1.00, 1.03}},
});

Constants machine_with_hops(double factor) {
  Constants constants;
  constants.same_host = {0.18 * factor, 1.9e-5, 0.06 * factor, 1.5e-5};
  constants.between_hosts = {0, 9.6e-5, 2.7 * factor, 7.7e-5};
  constants.nic_us_per_byte = 9.6e-5;
  constants.copy_us_per_byte = 1.75e-5;
  constants.reduce_us_per_byte = 1e-6;
  constants.cores_per_host = 2;
  return constants;
}

Choice choice_for(const Measured& cell, const Constants& constants) {
  std::vector<int> host_of;
  for (int rank = 0; rank < cell.world; ++rank) host_of.push_back(cell.tcp ? rank : 0);
  ChooseRequest request{.bytes = cell.bytes, .placement = placement_of(cell.world, host_of)};
  request.placement.most_per_machine = cell.world;
  return choose(request, constants);
}

}  // namespace

// Where ranks share cores, one start of them differs from the next by more than 10 %.
TEST(what_is_chosen_was_measured_to_be_quick) {
  std::string slow;
  for (const double factor : {0.75, 1.0, 2.0, 3.0}) {
    const Constants constants = machine_with_hops(factor);
    for (const Measured& cell : kMeasured) {
      const Choice choice = choice_for(cell, constants);
      const double enough = cell.world > constants.cores_per_host ? 1.25 : 1.10;
      if (cell.of(choice) <= enough) continue;
      slow += std::string(cell.tcp ? "tcp " : "shm ") + std::to_string(cell.world) + " ranks, " +
              std::to_string(cell.bytes) + " bytes, hops times " + std::to_string(factor) + ": " +
              std::string(name_of(choice.algorithm)) + "; ";
    }
  }
  CHECK_EQ(slow, "");
}
