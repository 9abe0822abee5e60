#include "torch/backend/backend.h"
#include "torch/backend/call_builder.h"

namespace fastgpu {

TorchBackend::WorkPtr TorchBackend::send(TensorList& tensors, int peer, int tag) {
  CallBuilder launch(*this, {c10d::OpType::SEND, "fastgpu:send"}, tensors);
  launch.send(peer, tag, single(launch.op(), tensors));
  return launch.finish(tensors);
}

TorchBackend::WorkPtr TorchBackend::recv(TensorList& tensors, int peer, int tag) {
  CallBuilder launch(*this, {c10d::OpType::RECV, "fastgpu:recv"}, tensors);
  launch.recv(peer, tag, single(launch.op(), tensors));
  return launch.finish(tensors);
}

TorchBackend::WorkPtr TorchBackend::recvAnysource(TensorList& tensors, int tag) {
  CallBuilder launch(*this, {c10d::OpType::RECVANYSOURCE, "fastgpu:recv_any_source"}, tensors);
  launch.recv(kAnySource, tag, single(launch.op(), tensors));
  return launch.finish(tensors);
}

}  // namespace fastgpu
