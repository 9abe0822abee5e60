// Builds, proves, prices, simulates and chooses schedules from Python. Used by property tests and
// `fastgpu-comm simulate`; communication does not need it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "comm/runtime.h"
#include "plan/build.h"
#include "plan/cost/choose.h"
#include "plan/proof/verify.h"
#include "plan/simulate/simulate.h"
#include "torch/bindings/bind.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

template <typename Kind>
Kind parse(const std::string& name, int count, const char* what) {
  std::string known;
  for (int i = 0; i < count; ++i) {
    const auto kind = static_cast<Kind>(i);
    if (name_of(kind) == name) return kind;
    known += (i == 0 ? "" : ", ") + std::string(name_of(kind));
  }
  raise(ErrorKind::kInvalidArgument,
        "no " + std::string(what) + " '" + name + "'; there are: " + known);
}

Collective parse_collective(const std::string& name) {
  return parse<Collective>(name, kCollectiveCount, "collective");
}

Algorithm parse_algorithm(const std::string& name) {
  return parse<Algorithm>(name, kAlgorithmCount, "algorithm");
}

// The PlanRequest of all ranks. Owns the vectors that a PlanRequest only refers to.
struct WorldPlan {
  std::string collective = "all_reduce";
  std::string algorithm = "ring";
  int world = 1;
  uint64_t count = 0;
  uint32_t element_size = 4;
  int lanes = 1;
  uint64_t chunk_bytes = 256 * 1024;
  int shots = 0;
  int root = 0;
  std::vector<int> host_of;
  bool one_machine = false;          // all ranks share the cores of one machine, not only of a host
  std::vector<uint64_t> all_counts;  // all_to_all: from rank i to rank j at i * world + j

  PlanRequest request() const {
    PlanRequest request;
    request.collective = parse_collective(collective);
    request.algorithm = parse_algorithm(algorithm);
    request.world = world;
    request.count = count;
    request.element_size = element_size;
    request.lanes = lanes;
    request.chunk_bytes = chunk_bytes;
    request.shots = shots;
    request.root = root;
    request.host_of = host_of;
    return request;
  }

  PriceRequest price() const {
    return {.collective = parse_collective(collective),
            .algorithm = parse_algorithm(algorithm),
            .bytes = count * element_size,
            .lanes = lanes,
            .shots = shots,
            .chunk_bytes = chunk_bytes,
            .placement = placement()};
  }

  Placement placement() const {
    Placement placement = placement_of(world, host_of);
    if (one_machine) placement.most_per_machine = world;
    return placement;
  }
};

py::tuple region_of(const Region& region) {
  return py::make_tuple(name_of(region.buffer), region.offset_bytes, region.size_bytes);
}

// Per lane a list of steps (verb, reduce, peer, source, target). A region is (buffer, offset_bytes,
// size_bytes).
std::vector<std::vector<py::tuple>> steps_of(const Schedule& schedule) {
  std::vector<std::vector<py::tuple>> lanes;
  for (const Lane& lane : schedule.lanes) {
    lanes.emplace_back();
    for (const Step& step : lane) {
      lanes.back().push_back(py::make_tuple(name_of(step.verb), step.reduce, step.peer,
                                            region_of(step.source), region_of(step.target)));
    }
  }
  return lanes;
}

std::vector<std::vector<py::tuple>> build_rank(const WorldPlan& plan, int rank) {
  PlanRequest request = plan.request();
  request.rank = rank;
  return steps_of(build(request));
}

// About how many steps all ranks take together: those of rank 0, which may be the root, and of a
// few others.
double estimated_steps(const WorldPlan& plan) {
  constexpr int kSamples = 8;
  PlanRequest request = plan.request();
  const auto steps = [&request](int rank) {
    request.rank = rank;
    std::size_t count = 0;
    for (const Lane& lane : build(request).lanes) count += lane.size();
    return static_cast<double>(count);
  };
  const py::gil_scoped_release released;
  double others = 0;
  for (int i = 0; i < kSamples && plan.world > 1; ++i) {
    others += steps(1 + i * (plan.world - 2) / (kSamples - 1));
  }
  return steps(0) + others / kSamples * (plan.world - 1);
}

Proof verify_world(const WorldPlan& plan, int capacity, uint64_t seed) {
  const py::gil_scoped_release released;
  return verify(plan.request(),
                {.capacity = capacity, .seed = seed, .all_counts = plan.all_counts});
}

Simulated simulate_world(const WorldPlan& plan, const Machine& machine) {
  const py::gil_scoped_release released;
  Machine own = machine;
  own.host_of = plan.host_of;
  if (plan.one_machine) own.machine_of.assign(static_cast<std::size_t>(plan.world), 0);
  return simulate(plan.request(), own);
}

// The choice (algorithm, lanes, chunk_bytes, shots) for the call of `plan`, whose own algorithm and
// lanes have no influence.
std::tuple<std::string, int, uint64_t, int> choose_for(const WorldPlan& plan,
                                                       const Constants& constants,
                                                       const std::string& forced, int lanes,
                                                       bool deterministic) {
  const Choice choice = choose({.collective = parse_collective(plan.collective),
                                .bytes = plan.count * plan.element_size,
                                .placement = plan.placement(),
                                .forced = parse_algorithm(forced),
                                .lanes = lanes,
                                .deterministic = deterministic},
                               constants);
  return {std::string(name_of(choice.algorithm)), choice.lanes, choice.chunk_bytes, choice.shots};
}

std::vector<std::string> algorithm_names(const std::string& collective) {
  std::vector<std::string> names;
  for (const Algorithm algorithm : algorithms_of(parse_collective(collective))) {
    names.emplace_back(name_of(algorithm));
  }
  return names;
}

std::vector<std::string> collective_names() {
  std::vector<std::string> names;
  for (int i = 0; i < kCollectiveCount; ++i) {
    names.emplace_back(name_of(static_cast<Collective>(i)));
  }
  return names;
}

// A Value with the fields that the keywords name. Raises TypeError for an unknown keyword.
template <typename Value>
Value from_keywords(const py::kwargs& fields) {
  const py::object made = py::cast(Value{});
  for (const auto& [name, value] : fields) {
    if (!py::hasattr(made, name)) {
      throw py::type_error("unexpected keyword argument '" + py::cast<std::string>(name) + "'");
    }
    py::setattr(made, name, value);
  }
  return made.cast<Value>();
}

void bind_costs(py::module_& module) {
  py::class_<LinkCosts>(module, "LinkCosts")
      .def(py::init<>())
      .def_readwrite("alpha_us", &LinkCosts::alpha_us)
      .def_readwrite("beta_us_per_byte", &LinkCosts::beta_us_per_byte)
      .def_readwrite("overhead_us", &LinkCosts::overhead_us)
      .def_readwrite("cpu_us_per_byte", &LinkCosts::cpu_us_per_byte);
  py::class_<Constants>(module, "Constants")
      .def(py::init<>())
      .def_readwrite("same_host", &Constants::same_host)
      .def_readwrite("between_hosts", &Constants::between_hosts)
      .def_readwrite("nic_us_per_byte", &Constants::nic_us_per_byte)
      .def_readwrite("copy_us_per_byte", &Constants::copy_us_per_byte)
      .def_readwrite("reduce_us_per_byte", &Constants::reduce_us_per_byte)
      .def_readwrite("cores_per_host", &Constants::cores_per_host)
      .def_readwrite("switch_us", &Constants::switch_us)
      .def_readwrite("is_gpu", &Constants::is_gpu)
      .def("text", [](const Constants& constants) { return to_text(constants); })
      .def_static("from_text", &constants_from_text, py::arg("text"));
}

void bind_simulation(py::module_& module) {
  py::class_<SlowLink>(module, "SlowLink")
      .def(py::init<int, int, double>(), py::arg("source"), py::arg("target"), py::arg("factor"));
  py::class_<Machine>(module, "Machine")
      .def(py::init(&from_keywords<Machine>))
      .def_readwrite("constants", &Machine::constants)
      .def_readwrite("channel_bytes", &Machine::channel_bytes)
      .def_readwrite("rank_slowness", &Machine::rank_slowness)
      .def_readwrite("start_us", &Machine::start_us)
      .def_readwrite("slow_links", &Machine::slow_links);
  py::class_<LinkUse>(module, "LinkUse")
      .def_readonly("source", &LinkUse::from)
      .def_readonly("target", &LinkUse::to)
      .def_readonly("frames", &LinkUse::frames)
      .def_readonly("bytes", &LinkUse::bytes)
      .def_readonly("busy_us", &LinkUse::busy_us);
  py::class_<Simulated>(module, "Simulated")
      .def_readonly("finish_us", &Simulated::finish_us)
      .def_readonly("busy_us", &Simulated::busy_us)
      .def_readonly("links", &Simulated::links)
      .def_property_readonly("end_us", &Simulated::end_us);
}

}  // namespace

void bind_plan(py::module_& module) {
  bind_costs(module);
  bind_simulation(module);
  py::class_<Proof>(module, "Proof")
      .def_property_readonly("holds", &Proof::holds)
      .def_readonly("counterexample", &Proof::counterexample)
      .def_readonly("bytes_sent", &Proof::bytes_sent)
      .def_readonly("frames_sent", &Proof::frames_sent)
      .def_readonly("steps", &Proof::steps)
      .def_readonly("rounds", &Proof::rounds)
      .def_readonly("orders", &Proof::orders);
  py::class_<WorldPlan>(module, "WorldPlan")
      .def(py::init(&from_keywords<WorldPlan>))
      .def_readwrite("collective", &WorldPlan::collective)
      .def_readwrite("algorithm", &WorldPlan::algorithm)
      .def_readwrite("world", &WorldPlan::world)
      .def_readwrite("count", &WorldPlan::count)
      .def_readwrite("element_size", &WorldPlan::element_size)
      .def_readwrite("lanes", &WorldPlan::lanes)
      .def_readwrite("chunk_bytes", &WorldPlan::chunk_bytes)
      .def_readwrite("shots", &WorldPlan::shots)
      .def_readwrite("root", &WorldPlan::root)
      .def_readwrite("host_of", &WorldPlan::host_of)
      .def_readwrite("one_machine", &WorldPlan::one_machine)
      .def_readwrite("all_counts", &WorldPlan::all_counts)
      .def("build", &build_rank, py::arg("rank"))
      .def("verify", &verify_world, py::arg("capacity") = 0, py::arg("seed") = 1)
      .def("simulate", &simulate_world, py::arg("machine"))
      .def("estimated_steps", &estimated_steps)
      .def(
          "predict_us",
          [](const WorldPlan& plan, const Constants& constants) {
            return predict_us(plan.price(), constants);
          },
          py::arg("constants"))
      .def(
          "tree_chunk_bytes",
          [](const WorldPlan& plan, const Constants& constants) {
            return tree_chunk_bytes(plan.price(), constants);
          },
          py::arg("constants"))
      .def("choose", &choose_for, py::arg("constants"), py::kw_only(), py::arg("forced") = "auto",
           py::arg("lanes") = 0, py::arg("deterministic") = false);
  module.def("algorithms_of", &algorithm_names, py::arg("collective"));
  module.def("collectives", &collective_names);
  module.def("measured_constants", [] {
    const std::string text = Runtime::shared().constants();
    return text.empty() ? Constants{} : constants_from_text(text);
  });
}

}  // namespace fastgpu
