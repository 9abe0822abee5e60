// Kernels that cannot succeed end in time, and leave the right record.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "checks.h"
#include "gpu_lanes.h"
#include "ranks.h"
#include "sim/schedule_cases.h"

namespace fastgpu::test {
namespace {

constexpr uint64_t kPatience = 200'000'000;  // nanoseconds
constexpr double kSoonest = 0.18;            // seconds; the GPU has a clock of its own
constexpr double kLimit = 5;                 // seconds, for everything that must end by itself

LaneCase ring_of_three() {
  LaneCase ring;
  ring.request = request_of(Collective::kAllReduce, Algorithm::kRing, 3, 100);
  ring.request.element_size = 4;
  return ring;
}

device::FailurePoint failure_of(const device::Control& control) {
  return __builtin_bit_cast(device::FailurePoint, control.failure);
}

std::string name_of(device::FailureCode code) {
  switch (code) {
    case device::FailureCode::kNone:
      return "none";
    case device::FailureCode::kTimeout:
      return "time-out";
    case device::FailureCode::kMismatch:
      return "mismatch";
    case device::FailureCode::kStopped:
      return "stopped by the host";
    case device::FailureCode::kDeparted:
      return "departed peer";
  }
  return "unknown";
}

// A ring of three ranks, some of which are launched.
struct Ring {
  Ring()
      : lane_case(ring_of_three()),
        schedules(schedules_of(lane_case)),
        lanes(lane_case, schedules, buffer_bytes(lane_case, schedules.front())) {
    lanes.group().set_patience(kPatience);
  }
  // Returns the seconds until all launched ranks have ended.
  double run(const std::vector<GpuMemory>& args, unsigned ranks) {
    const auto begin = std::chrono::steady_clock::now();
    for (const GpuMemory& each : args) {
      launch_ranks(lane_ranks_kernel(DType::kFloat32, ReduceOp::kSum), each,
                   {ranks, lanes.lanes(), 512});
    }
    CUDA_CHECK(cudaDeviceSynchronize());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  double run_without_rank_1() {
    std::vector<GpuMemory> args;
    args.push_back(lanes.args_of(std::vector<int>{0, 2}, 1));
    return run(args, 2);
  }

  LaneCase lane_case;
  std::vector<Schedule> schedules;
  GpuLanes lanes;
};

// Collects what does not hold.
class Findings {
 public:
  void expect(bool holds, const std::string& what) {
    if (!holds) text_ += (text_.empty() ? "" : "; ") + what;
  }
  template <typename Value>
  void expect_equal(const std::string& what, const Value& found, const Value& expected) {
    expect(found == expected,
           what + " is " + std::to_string(found) + ", expected " + std::to_string(expected));
  }
  // Every rank has stopped for this reason, and one has noted it.
  void expect_stopped(const std::vector<device::Control>& controls, device::FailureCode code) {
    bool noted = false;
    for (std::size_t rank = 0; rank < controls.size(); ++rank) {
      const auto stopped = static_cast<device::FailureCode>(controls[rank].stop & 0xff);
      expect(controls[rank].stop != 0 && stopped == code, "rank " + std::to_string(rank) +
                                                              ": stop has " + name_of(stopped) +
                                                              ", expected " + name_of(code));
      noted = noted || failure_of(controls[rank]).code == code;
    }
    expect(noted, "no rank has the record of a " + name_of(code) + ", expected at least one");
  }
  void report(Lines& lines, const std::string& what, const std::string& detail) const {
    text_.empty() ? lines.passed(what, detail) : lines.failed(what, text_);
  }

 private:
  std::string text_;
};

std::string seconds_text(double seconds) {
  return "ended after " + std::to_string(static_cast<int>(seconds * 1000)) + " ms";
}

void check_timeout(Lines& lines) {
  Ring ring;
  Findings findings;
  const double seconds = ring.run_without_rank_1();
  const std::vector<device::Control> controls = ring.lanes.group().controls();
  findings.expect_stopped(controls, device::FailureCode::kTimeout);
  findings.expect(seconds >= kSoonest && seconds < kLimit,
                  seconds_text(seconds) + ", expected 180 to 5000");
  findings.report(lines, "lanes, a rank that does not come: time-out", seconds_text(seconds));

  // The group is dead: a later kernel ends at once, and the failure stays.
  Findings later;
  const double again = ring.run_without_rank_1();
  later.expect(again * 1e9 < kPatience, seconds_text(again) + ", expected less than 200");
  const std::vector<device::Control> after = ring.lanes.group().controls();
  for (std::size_t rank = 0; rank < after.size(); ++rank) {
    later.expect_equal("stop of rank " + std::to_string(rank), after[rank].stop,
                       controls[rank].stop);
    later.expect_equal("record of rank " + std::to_string(rank), after[rank].failure,
                       controls[rank].failure);
  }
  later.report(lines, "lanes, after a failure: the next kernel ends at once", seconds_text(again));
}

void check_host_stop(Lines& lines) {
  Ring ring;
  ring.lanes.group().set_patience(60'000'000'000);
  std::jthread host([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ring.lanes.group().host_word().set(device::HostWord::kStopAll);
  });
  const double seconds = ring.run_without_rank_1();
  Findings findings;
  findings.expect_stopped(ring.lanes.group().controls(), device::FailureCode::kStopped);
  findings.expect(seconds >= 0.05 && seconds < kLimit,
                  seconds_text(seconds) + ", expected 50 to 5000");
  findings.report(lines, "lanes, the host's stop word", seconds_text(seconds));
}

// Both keys of the two calls, whichever rank has noted the failure.
void expect_keys(Findings& findings, const std::vector<device::Control>& controls, int other,
                 uint64_t key, uint64_t other_key) {
  for (std::size_t rank = 0; rank < controls.size(); ++rank) {
    const device::Control& control = controls[rank];
    if (failure_of(control).code != device::FailureCode::kMismatch) continue;
    const bool is_other = static_cast<int>(rank) == other;
    const uint64_t mine = is_other ? other_key : key;
    const uint64_t theirs = is_other ? key : other_key;
    const std::string who = "rank " + std::to_string(rank) + ": ";
    findings.expect_equal(who + "its key", control.mine[0], mine);
    findings.expect_equal(who + "its second key", control.mine[1], ~mine);
    findings.expect_equal(who + "the peer's key", control.theirs[0], theirs);
    findings.expect_equal(who + "the peer's second key", control.theirs[1], ~theirs);
    if (!is_other) findings.expect_equal(who + "the peer", int{failure_of(control).peer}, other);
  }
}

void check_mismatch(Lines& lines) {
  Ring ring;
  std::vector<device::LaneArgs> args;
  for (const int rank : {0, 1, 2}) args.push_back(ring.lanes.args(rank, rank == 1 ? 22 : 11));
  std::vector<GpuMemory> memory;
  memory.push_back(copy_to_gpu(std::span<const device::LaneArgs>(args)));
  const double seconds = ring.run(memory, 3);
  const std::vector<device::Control> controls = ring.lanes.group().controls();
  Findings findings;
  findings.expect_stopped(controls, device::FailureCode::kMismatch);
  expect_keys(findings, controls, 1, 11, 22);
  findings.expect(seconds < kLimit, seconds_text(seconds) + ", expected less than 5000");
  findings.report(lines, "lanes, another call: mismatch with both keys", seconds_text(seconds));
}

// Runs a small all_reduce of a group of two, with a rank for each key. Returns the seconds it took.
double run_small_ranks(GpuSmall& small, const std::vector<uint64_t>& keys) {
  std::vector<GpuMemory> data;
  std::vector<device::SmallArgs> args;
  for (const uint64_t key : keys) {
    data.emplace_back(64);
    args.push_back(small.args(static_cast<int>(args.size()), data.back(), key));
  }
  const GpuMemory memory = copy_to_gpu(std::span<const device::SmallArgs>(args));
  const auto begin = std::chrono::steady_clock::now();
  launch_ranks(small_ranks_kernel(DType::kFloat32), memory,
               {static_cast<unsigned>(keys.size()), 1, GpuSmall::kThreads});
  CUDA_CHECK(cudaDeviceSynchronize());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void check_small_failures(Lines& lines) {
  const SmallCase two;
  GpuSmall missing(two);
  missing.group().set_patience(kPatience);
  double seconds = run_small_ranks(missing, {1});
  Findings findings;
  std::vector<device::Control> controls = missing.group().controls();
  findings.expect_stopped(controls, device::FailureCode::kTimeout);
  findings.expect_equal("the peer", int{failure_of(controls[0]).peer}, 1);
  findings.expect(seconds >= kSoonest && seconds < kLimit,
                  seconds_text(seconds) + ", expected 180 to 5000");
  findings.report(lines, "small all_reduce, a rank that does not come: time-out",
                  seconds_text(seconds));

  GpuSmall other(two);
  seconds = run_small_ranks(other, {5, 6});
  Findings keys;
  controls = other.group().controls();
  keys.expect_stopped(controls, device::FailureCode::kMismatch);
  expect_keys(keys, controls, 1, 5, 6);
  keys.expect(seconds < kLimit, seconds_text(seconds) + ", expected less than 5000");
  keys.report(lines, "small all_reduce, another call: mismatch with both keys",
              seconds_text(seconds));
}

}  // namespace

void check_failures(Lines& lines, const CheckOptions&) {
  check_timeout(lines);
  check_host_stop(lines);
  check_mismatch(lines);
  check_small_failures(lines);
}

}  // namespace fastgpu::test
