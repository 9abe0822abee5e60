#include "rates.h"

#include <algorithm>
#include <cstdio>

#include "gpu.h"

namespace fastgpu::test {
namespace {

constexpr int kRepetitions = 21;
constexpr std::size_t kCopyBytes = std::size_t{512} << 20;

class Event {
 public:
  Event() { CUDA_CHECK(cudaEventCreate(&event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }
  void record() const { CUDA_CHECK(cudaEventRecord(event_)); }
  double seconds_since(const Event& begin) const {
    CUDA_CHECK(cudaEventSynchronize(event_));
    float milliseconds = 0;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin.event_, event_));
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

std::string text(const char* format, double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, format, value);
  return buffer;
}

}  // namespace

std::vector<double> medians_of(const std::vector<Timed>& all, int repetitions) {
  const Event begin;
  const Event end;
  std::vector<std::vector<double>> times(all.size());
  for (int i = -2; i < repetitions; ++i) {  // the first two warm up
    for (std::size_t each = 0; each < all.size(); ++each) {
      begin.record();
      all[each].launch();
      end.record();
      const double seconds = end.seconds_since(begin);
      if (i >= 0) times[each].push_back(seconds);
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& each : times) {
    std::ranges::sort(each);
    medians.push_back(each[each.size() / 2]);
  }
  return medians;
}

void measure_beside_copy(Lines& lines, const std::vector<Timed>& all) {
  const GpuMemory source(kCopyBytes);
  const GpuMemory target(kCopyBytes);
  std::vector<Timed> timed{{"copy on the GPU, beside what follows", 2.0 * kCopyBytes, 0, [&] {
                              CUDA_CHECK(cudaMemcpyAsync(target.data(), source.data(), kCopyBytes,
                                                         cudaMemcpyDeviceToDevice));
                            }}};
  timed.insert(timed.end(), all.begin(), all.end());
  const std::vector<double> medians = medians_of(timed, kRepetitions);
  const double copy_rate = timed[0].bytes / medians[0];
  for (std::size_t i = 0; i < timed.size(); ++i) {
    const double rate = timed[i].bytes / medians[i];
    const double share = rate / copy_rate;
    lines.rate({.what = timed[i].what,
                .figure = text("%.0f GB/s", rate * 1e-9) + text(", %.1f us", medians[i] * 1e6),
                .share = i == 0 ? "" : text("%.1f %%", share * 100),
                .target = timed[i].target == 0 ? "" : text("%.0f %%", timed[i].target * 100),
                .met = share >= timed[i].target});
  }
}

}  // namespace fastgpu::test
