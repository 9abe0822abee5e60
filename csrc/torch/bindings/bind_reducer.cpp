#include <ATen/ATen.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "codec/codec.h"
#include "codec/codec_costs.h"
#include "codec/random_key.h"
#include "codec/residual.h"
#include "torch/bindings/bind.h"
#include "torch/reducer/gradient_reducer.h"

namespace py = pybind11;

namespace fastgpu {
namespace {

using ReducerPtr = std::shared_ptr<GradientReducer>;
using TorchReducer = std::shared_ptr<c10d::Reducer>;

Codec codec_of(const std::string& name) {
  for (int i = 0; i < kCodecCount; ++i) {
    if (name_of(static_cast<Codec>(i)) == name) return static_cast<Codec>(i);
  }
  raise(ErrorKind::kInvalidArgument, "no codec '" + name + "'");
}

GradientReducer::Weighting weighting_of(const std::optional<std::string>& name) {
  using Weighting = GradientReducer::Weighting;
  if (!name.has_value()) return Weighting::kNone;
  if (*name == "mean") return Weighting::kMean;
  if (*name == "sum") return Weighting::kSum;
  raise(ErrorKind::kInvalidArgument, "weighted is '" + *name + "'; allowed: 'mean', 'sum', None");
}

// By parameter: the codec's name, the bits of the residual or 0, the seed of stochastic rounding.
using Encodings = std::vector<std::tuple<std::string, int, std::optional<uint64_t>>>;

std::vector<GradientReducer::Encoding> encodings_of(const Encodings& encodings) {
  std::vector<GradientReducer::Encoding> made;
  made.reserve(encodings.size());
  for (const auto& [codec, bits, seed] : encodings) made.push_back({codec_of(codec), bits, seed});
  return made;
}

ReducerPtr make_reducer(GradientReducer::BackendPtr backend, const Encodings& encodings,
                        const std::optional<std::string>& weighted) {
  return std::make_shared<GradientReducer>(std::move(backend), encodings_of(encodings),
                                           weighting_of(weighted));
}

std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

const CodecKernels& kernels_of(const std::string& codec) {
  const CodecKernels* kernels = find_codec(codec_of(codec));
  if (kernels == nullptr) raise(ErrorKind::kInvalidArgument, "codec 'none' encodes nothing");
  return *kernels;
}

// The bindings' callers pass contiguous float32 tensors on the CPU.
// `seed` and `key` are those of stochastic rounding.
at::Tensor encode(const std::string& codec, const at::Tensor& source,
                  const std::optional<at::Tensor>& residual, std::optional<uint64_t> seed,
                  uint64_t key) {
  const CodecKernels& kernels = kernels_of(codec);
  const auto count = static_cast<std::size_t>(source.numel());
  const auto size_bytes = static_cast<int64_t>(encoded_bytes(codec_of(codec), count));
  at::Tensor encoded = at::empty({size_bytes}, at::kByte);
  auto* target = reinterpret_cast<std::byte*>(encoded.mutable_data_ptr<uint8_t>());
  Residual lost;
  if (residual.has_value()) lost.values = residual->mutable_data_ptr<float>();
  if (seed.has_value()) seed = derived_key(*seed, key);
  encode_with(kernels, lost, seed, 0, {source.const_data_ptr<float>(), count}, target);
  return encoded;
}

void decode(const std::string& codec, const at::Tensor& encoded, const at::Tensor& target,
            bool add) {
  const CodecKernels& kernels = kernels_of(codec);
  const auto count = static_cast<std::size_t>(target.numel());
  const auto wanted = static_cast<int64_t>(encoded_bytes(codec_of(codec), count));
  if (encoded.numel() != wanted) {
    raise(ErrorKind::kInvalidArgument, std::to_string(count) + " elements take " +
                                           std::to_string(wanted) + " bytes in " + codec +
                                           ", not " + std::to_string(encoded.numel()));
  }
  const auto* source = reinterpret_cast<const std::byte*>(encoded.const_data_ptr<uint8_t>());
  (add ? kernels.decode_add : kernels.decode)(source, target.mutable_data_ptr<float>(), count);
}

py::dict dict_of(const GradientReducer::BucketStats& stats) {
  py::dict result;
  result["parameters"] = stats.parameters;
  result["codec"] = stats.codec;
  result["bytes"] = stats.size_bytes;
  result["encoded_bytes"] = stats.encoded_bytes;
  result["residual_bytes"] = stats.residual_bytes;
  result["launched_s"] = static_cast<double>(stats.launched_ns) * 1e-9;
  result["done_s"] = static_cast<double>(stats.done_ns) * 1e-9;
  result["codec_s"] = static_cast<double>(stats.codec_ns) * 1e-9;
  return result;
}

void bind_codecs(py::module_& module) {
  const py::call_guard<py::gil_scoped_release> no_gil;
  module.def(
      "codec_costs",
      [](const std::string& codec) {
        const CodecCosts& costs = costs_of(codec_of(codec));
        return std::tuple(costs.encode_us_per_byte, costs.encode_feedback_us_per_byte,
                          costs.decode_us_per_byte, costs.decode_add_us_per_byte);
      },
      py::arg("codec"), no_gil);
  module.def("encode", &encode, py::arg("codec"), py::arg("source"), py::arg("residual"),
             py::arg("seed"), py::arg("key"), no_gil);
  module.def("decode", &decode, py::arg("codec"), py::arg("encoded"), py::arg("target"),
             py::arg("add"), no_gil);
}

}  // namespace

void bind_reducer(py::module_& module) {
  const py::call_guard<py::gil_scoped_release> no_gil;
  py::class_<GradientReducer, ReducerPtr>(module, "GradientReducer")
      .def(py::init(&make_reducer), py::arg("backend"), py::arg("encodings"), py::arg("weighted"))
      .def(
          "attach",
          [](GradientReducer& self, const TorchReducer& reducer) { self.attach(*reducer); },
          py::arg("reducer"))
      .def("set_backend", &GradientReducer::set_backend, py::arg("backend"))
      .def(
          "set_encodings",
          [](GradientReducer& self, const Encodings& encodings) {
            self.set_encodings(encodings_of(encodings));
          },
          py::arg("encodings"))
      .def(
          "split_buckets",
          [](const GradientReducer& self, const TorchReducer& reducer) {
            return self.split_buckets(*reducer);
          },
          py::arg("reducer"), no_gil)
      .def("set_step", &GradientReducer::set_step, py::arg("step"))
      .def("announce_weight", &GradientReducer::announce_weight, py::arg("weight"), no_gil)
      .def("least_of", &GradientReducer::least_of, py::arg("values"))
      .def(
          "take_least", [](GradientReducer& self) { return if_defined(self.take_least()); }, no_gil)
      .def_property_readonly("passes", &GradientReducer::passes)
      .def_property_readonly(
          "lead_s",
          [](const GradientReducer& self) { return static_cast<double>(self.lead_ns()) * 1e-9; })
      .def(
          "residual",
          [](const GradientReducer& self, std::size_t parameter) {
            return if_defined(self.residual(parameter));
          },
          py::arg("parameter"))
      .def("set_residual", &GradientReducer::set_residual, py::arg("parameter"),
           py::arg("residual"))
      .def("scale_residuals", &GradientReducer::scale_residuals, py::arg("factor"))
      .def("keep_copies", &GradientReducer::keep_copies, py::arg("keep"))
      .def("undo", &GradientReducer::undo)
      .def("abandon_step", &GradientReducer::abandon_step)
      .def("stats", [](const GradientReducer& self) {
        py::list buckets;
        for (const auto& bucket : self.stats()) buckets.append(dict_of(bucket));
        return buckets;
      });
  module.def(
      "buckets_of",
      [](const TorchReducer& reducer) { return GradientReducer::buckets_of(*reducer); },
      py::arg("reducer"));
  module.def(
      "set_buckets",
      [](const TorchReducer& reducer, const std::vector<GradientReducer::Indices>& buckets) {
        GradientReducer::set_buckets(*reducer, buckets);
      },
      py::arg("reducer"), py::arg("buckets"), no_gil);
  module.def(
      "parameters_of",
      [](const TorchReducer& reducer, const c10d::GradBucket& bucket) {
        return GradientReducer::parameters_of(*reducer, bucket);
      },
      py::arg("reducer"), py::arg("bucket"));
  bind_codecs(module);
}

}  // namespace fastgpu
