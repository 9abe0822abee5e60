#include "torch/backend/options.h"

namespace fastgpu {

void BackendOptions::set(const std::string& name, const std::string& text) {
  fastgpu::Options valid;
  set_field(valid, name, text);
  fields_[name] = text;
}

void BackendOptions::unset(const std::string& name) {
  static_cast<void>(get_field(fastgpu::Options{}, name));  // checks the name
  fields_.erase(name);
}

std::optional<std::string> BackendOptions::get(const std::string& name) const {
  const auto found = fields_.find(name);
  if (found == fields_.end()) return std::nullopt;
  return found->second;
}

fastgpu::Options BackendOptions::resolve() const {
  fastgpu::Options options = options_from_environment(fastgpu_environment());
  for (const auto& [name, text] : fields_) set_field(options, name, text);
  return options;
}

}  // namespace fastgpu
