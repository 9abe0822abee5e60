#include "plan/cost/placement.h"

#include <algorithm>

namespace fastgpu {

Placement placement_of(int world, std::span<const int> host_of) {
  if (host_of.empty()) {
    return {.world = world,
            .hosts = 1,
            .most_per_host = world,
            .fewest_per_host = world,
            .most_per_machine = world};
  }
  const int hosts = 1 + *std::max_element(host_of.begin(), host_of.end());
  std::vector<int> ranks(static_cast<std::size_t>(hosts));
  for (const int host : host_of) ++ranks[static_cast<std::size_t>(host)];
  const auto [fewest, most] = std::minmax_element(ranks.begin(), ranks.end());
  return {.world = world,
          .hosts = hosts,
          .most_per_host = *most,
          .fewest_per_host = *fewest,
          .most_per_machine = *most};
}

std::vector<int> hosts_of(const Placement& placement) {
  std::vector<int> host_of;
  if (placement.hosts == 1) return host_of;
  int spare = placement.world - placement.hosts * placement.fewest_per_host;
  for (int host = 0; host < placement.hosts; ++host) {
    const int extra = std::min(spare, placement.most_per_host - placement.fewest_per_host);
    const int ranks = placement.fewest_per_host + extra;
    host_of.insert(host_of.end(), static_cast<std::size_t>(ranks), host);
    spare -= extra;
  }
  return host_of;
}

}  // namespace fastgpu
