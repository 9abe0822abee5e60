#include "torch/backend/backend.h"
#include "torch/backend/call_builder.h"

namespace fastgpu {

TorchBackend::WorkPtr TorchBackend::send(TensorList& tensors, int peer, int tag) {
  CallBuilder builder(*this, {c10d::OpType::SEND, "fastgpu:send"}, tensors);
  builder.send(peer, tag, single(builder.op(), tensors));
  return builder.finish(tensors);
}

TorchBackend::WorkPtr TorchBackend::recv(TensorList& tensors, int peer, int tag) {
  CallBuilder builder(*this, {c10d::OpType::RECV, "fastgpu:recv"}, tensors);
  builder.recv(peer, tag, single(builder.op(), tensors));
  return builder.finish(tensors);
}

TorchBackend::WorkPtr TorchBackend::recvAnysource(TensorList& tensors, int tag) {
  CallBuilder builder(*this, {c10d::OpType::RECVANYSOURCE, "fastgpu:recvAnySource", "recv"},
                      tensors);
  builder.recv(kAnySource, tag, single(builder.op(), tensors));
  return builder.finish(tensors);
}

}  // namespace fastgpu
