// fastgpu_comm.Options, which a user may pass as pg_options.
// Ownership: shared with Python. Threading: not synchronised; a backend reads it when it is made.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "comm/options.h"
#include "torch/backend/torch_version.h"

namespace fastgpu {

struct BackendOptions final : c10d::Backend::Options {
  BackendOptions() : c10d::Backend::Options("fastgpu") {}

  // c10d copies with it the options that it hands to a child group.
  c10::intrusive_ptr<c10d::Backend::Options> clone() const FASTGPU_SINCE_2_14 {
    return c10::make_intrusive<BackendOptions>(*this);
  }

  // Raises InvalidArgumentError for an unknown name or a value that is not allowed.
  void set(const std::string& name, const std::string& text);
  // Raises InvalidArgumentError for an unknown name.
  void unset(const std::string& name);
  std::optional<std::string> get(const std::string& name) const;
  // A field that is set here wins over its FASTGPU_ variable, which wins over the default.
  fastgpu::Options resolve() const;

  bool timeout_is_set = false;  // the user set the time-out: it wins over init_process_group's
  bool store_ends = false;      // rank 0 closes the store when it destroys the group

 private:
  std::map<std::string, std::string> fields_;  // the fields that are set; all values are valid
};

}  // namespace fastgpu
