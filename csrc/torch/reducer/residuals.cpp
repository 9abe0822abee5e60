#include "torch/reducer/residuals.h"

#include <ATen/ATen.h>

#include <set>
#include <utility>

#include "base/codec.h"

namespace fastgpu {
namespace {

constexpr auto kBlock = static_cast<int64_t>(kInt8Block);

Residuals::StorePtr stored(const at::Tensor& values, bool in_8_bits) {
  Residuals::Store store{values, {}};
  if (in_8_bits) {
    const int64_t count = values.numel();
    store = {at::zeros({count}, at::kChar),
             at::zeros({(count + kBlock - 1) / kBlock}, at::kBFloat16)};
    fastgpu::store(values.const_data_ptr<float>(), store.view());
  }
  return std::make_shared<Residuals::Store>(std::move(store));
}

Residuals::StorePtr clone(const Residuals::Store& store) {
  return std::make_shared<Residuals::Store>(Residuals::Store{
      store.values.clone(), store.scales.defined() ? store.scales.clone() : at::Tensor()});
}

}  // namespace

Residual Residuals::Store::view() const {
  Residual view;
  if (scales.defined()) {
    view.codes = static_cast<std::byte*>(values.mutable_data_ptr());
    view.scales = static_cast<std::byte*>(scales.mutable_data_ptr());
  } else {
    view.values = values.mutable_data_ptr<float>();
  }
  view.count = static_cast<std::size_t>(values.numel());
  return view;
}

// Whether the parameters, in this order, are all that their store has, and it is on the device.
bool Residuals::joined(const Indices& parameters, bool in_8_bits, at::Device device) const {
  const StorePtr& store = places_[parameters.front()].store;
  if (store == nullptr || store->scales.defined() != in_8_bits) return false;
  if (store->values.device() != device) return false;
  int64_t end = 0;
  for (const std::size_t parameter : parameters) {
    const Place& place = places_[parameter];
    if (place.store != store || place.first != end) return false;
    end += place.count;
  }
  return end == store->values.numel();
}

Residuals::StorePtr Residuals::join(const Indices& parameters,
                                    const std::vector<std::size_t>& lengths, bool in_8_bits,
                                    at::Device device) {
  if (joined(parameters, in_8_bits, device)) return places_[parameters.front()].store;
  int64_t count = 0;
  for (const std::size_t length : lengths) count += static_cast<int64_t>(length);
  at::Tensor whole = at::zeros({count}, at::TensorOptions(at::kFloat).device(device));
  int64_t end = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto length = static_cast<int64_t>(lengths[i]);
    const at::Tensor old = get(parameters[i]);
    if (old.defined()) whole.narrow(0, end, length).copy_(old);
    end += length;
  }
  const StorePtr store = stored(whole, in_8_bits);
  end = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto length = static_cast<int64_t>(lengths[i]);
    places_[parameters[i]] = {store, end, length};
    end += length;
  }
  return store;
}

at::Tensor Residuals::get(std::size_t parameter) const {
  const Place& place = places_.at(parameter);
  if (place.store == nullptr) return {};
  const Store& store = *place.store;
  if (!store.scales.defined()) return store.values.narrow(0, place.first, place.count).clone();
  at::Tensor values = at::empty({place.count}, at::kFloat);
  load(store.view(), static_cast<std::size_t>(place.first), values.mutable_data_ptr<float>(),
       static_cast<std::size_t>(place.count));
  return values;
}

void Residuals::set(std::size_t parameter, const at::Tensor& values) {
  places_.at(parameter) = {stored(values.clone(), false), 0, values.numel()};
  before_.at(parameter) = {};
}

at::Tensor Residuals::take(std::size_t parameter, bool remember) {
  const at::Tensor values = get(parameter);
  const Place place = std::exchange(places_.at(parameter), {});
  if (remember && place.store != nullptr) before_[parameter] = place;
  return values;
}

// A power of two, as GradScaler's factors are, scales both forms exactly.
void Residuals::scale(double factor) {
  std::set<StorePtr> stores;
  for (const Place& place : places_) stores.insert(place.store);
  for (const Place& place : before_) stores.insert(place.store);
  stores.erase(nullptr);
  for (const StorePtr& store : stores) {
    (store->scales.defined() ? store->scales : store->values).mul_(factor);
  }
}

void Residuals::remember(const Indices& parameters) {
  const StorePtr copy = clone(*places_[parameters.front()].store);
  for (const std::size_t parameter : parameters) {
    before_[parameter] = places_[parameter];
    before_[parameter].store = copy;
  }
}

void Residuals::undo() {
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (before_[i].store != nullptr) places_[i] = std::exchange(before_[i], {});
  }
}

void Residuals::forget() { before_.assign(before_.size(), {}); }

}  // namespace fastgpu
