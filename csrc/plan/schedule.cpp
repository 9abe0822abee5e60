#include "plan/schedule.h"

#include <array>

namespace fastgpu {
namespace {

std::string describe(const Region& region) {
  return std::string(name_of(region.buffer)) + "[" + std::to_string(region.offset_bytes) + ", " +
         std::to_string(region.end_bytes()) + ")";
}

}  // namespace

const char* name_of(Buffer buffer) {
  constexpr std::array kNames{"input", "data", "scratch"};
  return kNames[static_cast<std::size_t>(buffer)];
}

const char* name_of(Verb verb) {
  constexpr std::array<const char*, kVerbCount> kNames{"send", "recv", "copy"};
  return kNames[static_cast<std::size_t>(verb)];
}

uint64_t copied_bytes(const Step& step) {
  if (step.coding == Coding::kAddResidual) return 0;
  return step.coding == Coding::kDecode ? step.target.size_bytes : step.source.size_bytes;
}

FrameBytes frame_bytes(const Schedule& schedule) {
  FrameBytes bytes;
  for (const Lane& lane : schedule.lanes) {
    for (const Step& step : lane) {
      if (step.verb == Verb::kSend) bytes.sent += step.source.size_bytes;
      if (step.verb == Verb::kRecv) bytes.received += step.target.size_bytes;
    }
  }
  return bytes;
}

std::string describe(const Step& step) {
  if (step.coding == Coding::kAddResidual) return "add_residual(" + describe(step.target) + ")";
  std::string text = step.coding == Coding::kEncode   ? "encode"
                     : step.coding == Coding::kDecode ? "decode"
                                                      : name_of(step.verb);
  if (step.reduce) text += "_reduce";
  text += '(';
  if (step.verb != Verb::kCopy) text += "peer=" + std::to_string(step.peer);
  switch (step.verb) {
    case Verb::kSend:
      return text + " <- " + describe(step.source) + ")";
    case Verb::kRecv:
      return text + " -> " + describe(step.target) + ")";
    case Verb::kCopy:
      break;
  }
  return text + describe(step.source) + " -> " + describe(step.target) + ")";
}

}  // namespace fastgpu
