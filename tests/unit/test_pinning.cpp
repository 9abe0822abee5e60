#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "check.h"
#include "comm/pinning.h"

using namespace fastgpu;

namespace {

using Cpus = std::vector<int>;

// A tree as /sys/devices/system is: nodes' lists, and each processor's siblings.
class Tree {
 public:
  Tree() {
    std::string name = "/tmp/fastgpu-test-XXXXXX";
    root_ = ::mkdtemp(name.data());
  }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
  ~Tree() { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  std::string root() const { return root_; }

 private:
  std::filesystem::path root_;
};

Cpus range(int first, int last) {
  Cpus cpus;
  for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  return cpus;
}

// Nodes of so many processors each, every core of one or two of them, next to each other.
std::vector<Processor> machine(const std::vector<int>& sizes, int threads = 1) {
  std::vector<Processor> processors;
  int cpu = 0;
  for (std::size_t node = 0; node < sizes.size(); ++node) {
    for (int i = 0; i < sizes[node]; ++i, ++cpu) {
      processors.push_back({static_cast<int>(node), cpu / threads * threads, cpu});
    }
  }
  return processors;
}

std::vector<Cpus> all(Pin pin, int ranks, const std::vector<Processor>& processors) {
  std::vector<Cpus> dealt;
  for (int rank = 0; rank < ranks; ++rank) {
    dealt.push_back(deal({.pin = pin, .local_rank = rank, .local_world = ranks}, processors));
  }
  return dealt;
}

}  // namespace

TEST(lists_are_read_as_the_kernel_writes_them) {
  CHECK(cpus_from_text("0-3,8,10-11") == (Cpus{0, 1, 2, 3, 8, 10, 11}));
  CHECK(cpus_from_text("5") == Cpus{5});
  for (const char* text : {"", "a", "3-1", "1-", "-2", "1,x", "0-99999999"}) {
    CHECK(cpus_from_text(text).empty());
  }
}

TEST(processors_come_by_node_and_core) {
  const Tree tree;
  tree.write("node/online", "0-1");
  tree.write("node/node0/cpulist", "0-3,8-11");
  tree.write("node/node1/cpulist", "4-7,12-15");  // 14 and 15 are offline: not allowed
  for (int cpu = 0; cpu < 14; ++cpu) {
    tree.write("cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
               std::to_string(cpu % 8) + "," + std::to_string(cpu % 8 + 8));
  }
  const auto processors = read_processors(range(0, 13), tree.root());
  CHECK_EQ(processors.size(), 14U);
  CHECK(processors[0] == (Processor{0, 0, 0}));
  CHECK(processors[1] == (Processor{0, 0, 8}));
  CHECK(processors[13] == (Processor{1, 7, 7}));
  // Two ranks a node: both threads of a core are one rank's.
  const auto dealt = all(Pin::kCore, 4, processors);
  CHECK(dealt[0] == (Cpus{0, 1, 8, 9}));
  CHECK(dealt[1] == (Cpus{2, 3, 10, 11}));
  CHECK(dealt[2] == (Cpus{4, 5, 12, 13}));
  CHECK(dealt[3] == (Cpus{6, 7}));
}

TEST(what_is_not_told_is_one_node_of_single_cores) {
  const Tree empty;
  const auto processors = read_processors({2, 5, 7}, empty.root());
  CHECK_EQ(processors.size(), 3U);
  CHECK(all(Pin::kCore, 3, processors) == (std::vector<Cpus>{{2}, {5}, {7}}));
  CHECK(all(Pin::kNode, 2, processors) == (std::vector<Cpus>{{2, 5, 7}, {2, 5, 7}}));
  // Known in part: those that no node names make one of their own.
  empty.write("node/online", "0");
  empty.write("node/node0/cpulist", "0-5");
  const auto partly = read_processors({2, 5, 7}, empty.root());
  CHECK(all(Pin::kNode, 3, partly) == (std::vector<Cpus>{{2, 5}, {2, 5}, {7}}));
}

TEST(this_machine_can_be_read) {
  const auto processors = read_processors({0});
  CHECK_EQ(processors.size(), 1U);
  CHECK_EQ(processors[0].cpu, 0);
  CHECK_EQ(processors[0].core, 0);
}

TEST(ranks_are_dealt_evenly_over_nodes) {
  const Cpus first = range(0, 3);
  const Cpus second = range(4, 7);
  CHECK(all(Pin::kNode, 2, machine({4})) == (std::vector<Cpus>{first, first}));
  CHECK(all(Pin::kNode, 2, machine({4, 4})) == (std::vector<Cpus>{first, second}));
  CHECK(all(Pin::kNode, 4, machine({4, 4})) == (std::vector<Cpus>{first, first, second, second}));
  const auto four = all(Pin::kNode, 4, machine({4, 4, 4, 4}));
  for (int rank = 0; rank < 4; ++rank) {
    CHECK(four[static_cast<std::size_t>(rank)] == range(4 * rank, 4 * rank + 3));
  }
  // Fewer ranks than nodes: apart from each other. A small node gets fewer ranks.
  const auto apart = all(Pin::kNode, 2, machine({4, 4, 4, 4}));
  CHECK(apart[0] != apart[1]);
  const auto uneven = all(Pin::kNode, 5, machine({8, 2}));
  for (std::size_t rank = 0; rank < 4; ++rank) CHECK(uneven[rank] == range(0, 7));
  CHECK(uneven[4] == (Cpus{8, 9}));
}

TEST(shares_of_cores_are_contiguous_within_a_node) {
  CHECK(all(Pin::kCore, 2, machine({2})) == (std::vector<Cpus>{{0}, {1}}));
  CHECK(all(Pin::kCore, 3, machine({4, 4})) == (std::vector<Cpus>{range(0, 3), {4, 5}, {6, 7}}));
  CHECK(all(Pin::kCore, 2, machine({2, 2, 2, 2})) == (std::vector<Cpus>{range(0, 3), range(4, 7)}));
  CHECK(all(Pin::kCore, 1, machine({4, 4})) == (std::vector<Cpus>{range(0, 7)}));
  // Two cores of two threads: whole cores for two ranks, threads for three, in turn for five.
  const auto threads = machine({4}, 2);
  CHECK(all(Pin::kCore, 2, threads) == (std::vector<Cpus>{{0, 1}, {2, 3}}));
  CHECK(all(Pin::kCore, 3, threads) == (std::vector<Cpus>{{0}, {1}, {2, 3}}));
  CHECK(all(Pin::kCore, 5, threads) == (std::vector<Cpus>{{0}, {1}, {2}, {3}, {0}}));
}

// Whatever the machine and the ranks: each gets something, of what there is; on one node nobody
// shares a core while there are enough, and none lies idle.
TEST(everything_is_dealt_and_nothing_else) {
  const std::vector<std::vector<int>> shapes{{1}, {2}, {3, 5}, {8, 8}, {1, 7, 2}, {4, 4, 4, 4}};
  for (const auto& sizes : shapes) {
    for (const int threads : {1, 2}) {
      const auto processors = machine(sizes, threads);
      const auto count = static_cast<int>(processors.size());
      for (int ranks = 1; ranks <= 2 * count; ++ranks) {
        std::multiset<int> given;
        for (const Cpus& cpus : all(Pin::kCore, ranks, processors)) {
          CHECK(!cpus.empty());
          given.insert(cpus.begin(), cpus.end());
        }
        for (const int cpu : given) CHECK(cpu >= 0 && cpu < count);
        const std::set<int> distinct(given.begin(), given.end());
        if (sizes.size() == 1 && ranks <= count) CHECK_EQ(distinct.size(), given.size());
        if (ranks >= count && sizes.size() == 1) CHECK_EQ(distinct.size(), processors.size());
        for (const Cpus& cpus : all(Pin::kNode, ranks, processors)) CHECK(!cpus.empty());
      }
    }
  }
}
