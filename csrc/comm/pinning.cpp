#include "comm/pinning.h"

#include <pthread.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <fstream>
#include <map>
#include <sstream>
#include <system_error>

#include "base/affinity.h"
#include "base/log.h"
#include "comm/process.h"

namespace fastgpu {
namespace {

constexpr int kMostNodes = 1024;
constexpr int kMostCpus = 1 << 16;

std::vector<int> read_list(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return cpus_from_text(text);
}

// Part `index` of `parts` contiguous ones, as even as can be; of fewer than `parts`, one in turn.
template <typename Value>
std::vector<Value> share(const std::vector<Value>& all, std::size_t index, std::size_t parts) {
  const std::size_t size = all.size();
  if (size < parts) return {all[index % size]};
  const auto at = [&](std::size_t part) {
    return all.begin() + static_cast<std::ptrdiff_t>(part * size / parts);
  };
  return {at(index), at(index + 1)};
}

std::vector<int> distinct(const std::vector<Processor>& processors, int Processor::* what) {
  std::vector<int> values;
  for (const Processor& each : processors) {
    if (values.empty() || values.back() != each.*what) values.push_back(each.*what);
  }
  return values;
}

std::vector<Processor> those(const std::vector<Processor>& processors, int Processor::* what,
                             const std::vector<int>& values) {
  std::vector<Processor> found;
  std::ranges::copy_if(processors, std::back_inserter(found), [&](const Processor& each) {
    return std::ranges::find(values, each.*what) != values.end();
  });
  return found;
}

std::vector<int> cpus_of(const std::vector<Processor>& processors) {
  std::vector<int> cpus;
  cpus.reserve(processors.size());
  for (const Processor& each : processors) cpus.push_back(each.cpu);
  std::ranges::sort(cpus);
  return cpus;
}

// The node that holds the middle of what would be the rank's even share of all processors.
int node_of(std::size_t rank, std::size_t ranks, const std::vector<Processor>& processors) {
  return processors[(2 * rank + 1) * processors.size() / (2 * ranks)].node;
}

std::string text_of(const std::vector<int>& cpus) {
  std::string text;
  for (const int cpu : cpus) text.append(text.empty() ? "" : ",").append(std::to_string(cpu));
  return text;
}

}  // namespace

std::vector<int> cpus_from_text(const std::string& text) {
  std::vector<int> cpus;
  std::istringstream ranges(text);
  for (std::string range; std::getline(ranges, range, ',');) {
    int first = 0;
    int last = 0;
    const char* end = range.data() + range.size();
    auto read = std::from_chars(range.data(), end, first);
    last = first;
    if (read.ec == std::errc{} && read.ptr != end && *read.ptr == '-') {
      read = std::from_chars(read.ptr + 1, end, last);
    }
    if (read.ec != std::errc{} || read.ptr != end || first < 0 || last < first ||
        last >= kMostCpus) {
      return {};
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<Processor> read_processors(const std::vector<int>& allowed, const std::string& system) {
  std::map<int, int> node_of_cpu;
  for (const int node : read_list(system + "/node/online")) {
    if (node >= kMostNodes) break;
    for (const int cpu : read_list(system + "/node/node" + std::to_string(node) + "/cpulist")) {
      node_of_cpu[cpu] = node;
    }
  }
  std::vector<Processor> processors;
  for (const int cpu : allowed) {
    const auto node = node_of_cpu.find(cpu);
    const std::vector<int> siblings =
        read_list(system + "/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    processors.push_back({.node = node == node_of_cpu.end() ? kMostNodes : node->second,
                          .core = siblings.empty() ? cpu : siblings.front(),
                          .cpu = cpu});
  }
  std::ranges::sort(processors);
  return processors;
}

std::vector<int> deal(const Deal& deal, const std::vector<Processor>& processors) {
  if (processors.empty()) return {};
  const auto rank = static_cast<std::size_t>(deal.local_rank);
  const auto ranks = static_cast<std::size_t>(deal.local_world);
  const std::vector<int> nodes = distinct(processors, &Processor::node);
  if (deal.pin == Pin::kCore && ranks < nodes.size()) {
    return cpus_of(those(processors, &Processor::node, share(nodes, rank, ranks)));
  }
  const int node = node_of(rank, ranks, processors);
  const std::vector<Processor> near = those(processors, &Processor::node, {node});
  if (deal.pin != Pin::kCore) return cpus_of(near);
  std::size_t index = 0;  // among the ranks on this node
  std::size_t beside = 0;
  for (std::size_t other = 0; other < ranks; ++other) {
    if (node_of(other, ranks, processors) != node) continue;
    if (other < rank) ++index;
    ++beside;
  }
  const std::vector<int> cores = distinct(near, &Processor::core);
  if (cores.size() < beside) return share(cpus_of(near), index, beside);
  return cpus_of(those(near, &Processor::core, share(cores, index, beside)));
}

void pin_rank(int rank, Pin pin, const Topology& topology, Process& process) {
  const PeerRecord& mine = topology.records[static_cast<std::size_t>(rank)];
  Deal request{.pin = pin, .local_rank = 0, .local_world = 0};
  for (std::size_t other = 0; other < topology.records.size(); ++other) {
    const PeerRecord& record = topology.records[other];
    if (record.machine != mine.machine) continue;
    if (record.cores != mine.cores) {
      return log(LogLevel::kInfo, "not_pinned",
                 "rank=" + std::to_string(rank) + " cpus=" + text_of(mine.cores) + " reason=" +
                     quoted("the ranks of this machine have different processors already"));
    }
    if (static_cast<int>(other) < rank) ++request.local_rank;
    ++request.local_world;
  }
  const std::vector<int> cpus = deal(request, read_processors(mine.cores));
  const std::string who = "rank=" + std::to_string(rank) + " cpus=" + text_of(cpus);
  if (const int error = bind_thread(::pthread_self(), cpus); error != 0) {
    return log(LogLevel::kWarn, "not_pinned",
               who + " reason=" + quoted(std::generic_category().message(error)));
  }
  process.bind(cpus);
  log(LogLevel::kInfo, "pinned", who);
}

}  // namespace fastgpu
