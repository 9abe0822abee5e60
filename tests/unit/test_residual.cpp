// Residuals of 8 bits: encodings of any parts of an array, and the conversions.
#include "codec/codec.h"
#include "codec/residual.h"
#include "unit/codec_cases.h"

namespace fastgpu {
namespace {

using namespace codec_cases;

// With guards around both arrays.
class Guarded {
 public:
  explicit Guarded(std::size_t count)
      : codes_(count + 2 * kGuard, kGuardByte),
        scales_((count + kInt8Block - 1) / kInt8Block * kScaleBytes + 2 * kGuard, kGuardByte) {
    view_.codes = codes_.data() + kGuard;
    view_.scales = scales_.data() + kGuard;
    view_.count = count;
    std::fill(codes_.begin() + kGuard, codes_.end() - kGuard, std::byte{});
    std::fill(scales_.begin() + kGuard, scales_.end() - kGuard, std::byte{});
  }
  const Residual& view() const { return view_; }
  Floats values() const {
    Floats all(view_.count);
    load(view_, 0, all.data(), all.size());
    return all;
  }
  void check_guards() const {
    for (const Bytes* bytes : {&codes_, &scales_}) {
      CHECK(std::count(bytes->begin(), bytes->begin() + kGuard, kGuardByte) == kGuard);
      CHECK(std::count(bytes->end() - kGuard, bytes->end(), kGuardByte) == kGuard);
    }
  }

 private:
  Bytes codes_;
  Bytes scales_;
  Residual view_;
};

TEST(stored_values_are_those_of_int8) {
  const CodecKernels& int8 = *find_codec(Codec::kInt8);
  for (const std::size_t count : {0u, 1u, 63u, 64u, 65u, 2048u, 2049u, 5000u}) {
    const Floats values = random_floats(count, 7);
    const Guarded residual(count);
    store(values.data(), residual.view());
    const Floats expected = decoded(int8, encoded(int8, Codec::kInt8, values), count);
    CHECK(same_bits(residual.values(), expected));
    residual.check_guards();
    for (const std::size_t first : {count / 3, count / 2}) {
      Floats part(count - first);
      load(residual.view(), first, part.data(), part.size());
      CHECK(
          same_bits(part, Floats(expected.begin() + static_cast<int64_t>(first), expected.end())));
    }
  }
}

TEST(loaded_values_are_stored_exactly) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    Floats values = random_floats(1000, seed, 1e-4F);
    for (int turn = 0; turn < 2; ++turn) {
      const Guarded first(1000);
      store(values.data(), first.view());
      values = first.values();
      const Guarded again(1000);
      store(values.data(), again.view());
      CHECK(same_bits(again.values(), values));
    }
  }
}

// Each part is encoded with what the residual has, and leaves there what is lost, rounded to int8.
// Elements outside the part move by no more than a rounding, and only in blocks that it shares.
TEST(parts_may_begin_and_end_anywhere) {
  constexpr std::size_t kCount = 9000;
  const std::vector<std::size_t> ends = {0, 10, 64, 200, 201, 2300, 4353, 4480, 8999, kCount};
  for (const Codec codec : kCodecs) {
    const CodecKernels& kernels = *find_codec(codec);
    const Guarded residual(kCount);
    const Floats start = random_floats(kCount, 3, 0.1F);
    store(start.data(), residual.view());
    const Floats source = random_floats(kCount, 4);
    for (std::size_t part = 0; part + 1 < ends.size(); ++part) {
      const std::size_t first = ends[part];
      const std::size_t count = ends[part + 1] - first;
      const auto cut = [&](const Floats& all) {
        return Floats(all.begin() + static_cast<int64_t>(first),
                      all.begin() + static_cast<int64_t>(first + count));
      };
      const Floats before = residual.values();
      Bytes bytes(encoded_bytes(codec, count));
      encode_with(kernels, residual.view(), {}, first, {source.data() + first, count},
                  bytes.data());
      Floats lost = cut(before);
      CHECK(bytes == encoded(kernels, codec, cut(source), &lost));
      Floats wanted = before;
      std::copy(lost.begin(), lost.end(), wanted.begin() + static_cast<int64_t>(first));
      const Floats after = residual.values();
      check_error(Codec::kInt8, wanted, after);
      for (std::size_t i = 0; i < kCount; ++i) {
        const bool shares = i / kInt8Block >= first / kInt8Block &&
                            i / kInt8Block <= (first + count - 1) / kInt8Block;
        if (!shares) CHECK(same_bits(before[i], after[i]));
      }
      residual.check_guards();
    }
  }
}

TEST(a_block_that_is_not_finite_keeps_the_bits_of_its_residual) {
  const CodecKernels& kernels = *find_codec(Codec::kInt8);
  const Guarded residual(256);
  const Floats start = random_floats(256, 3, 0.1F);
  store(start.data(), residual.view());
  const Floats before = residual.values();
  Floats source = random_floats(256, 4);
  source[70] = kNan;
  Bytes bytes(encoded_bytes(Codec::kInt8, 256));
  encode_with(kernels, residual.view(), {}, 0, source, bytes.data());
  const Floats after = residual.values();
  for (std::size_t i = 0; i < 256; ++i) {
    CHECK(std::isfinite(after[i]));
    CHECK(same_bits(before[i], after[i]) == (i / kInt8Block == 1));
  }
}

// Every step loses at most the rounding of the residual; the rest is delivered.
TEST(many_steps_deliver_all_but_the_roundings_of_the_residual) {
  constexpr int kSteps = 200;
  constexpr std::size_t kCount = 1000;
  const Floats source = random_floats(kCount, 5);
  const float largest = largest_magnitude(source.data(), kCount);
  for (const Codec codec : kBlockCodecs) {
    const CodecKernels& kernels = *find_codec(codec);
    const Guarded residual(kCount);
    std::vector<double> delivered(kCount);
    Bytes bytes(encoded_bytes(codec, kCount));
    for (int step = 0; step < kSteps; ++step) {
      encode_with(kernels, residual.view(), {}, 0, source, bytes.data());
      const Floats values = decoded(kernels, bytes, kCount);
      for (std::size_t i = 0; i < kCount; ++i) delivered[i] += values[i];
    }
    // What one encoding may lose of source + residual, and what int8 may lose of that.
    const double once = error_bound(codec, largest, largest) * 1.2;
    const double of_residual = once / 128 * (1 + std::ldexp(1, -7));
    const Floats left = residual.values();
    for (std::size_t i = 0; i < kCount; ++i) {
      const double missing = std::fabs(kSteps * double{source[i]} - delivered[i] - left[i]);
      CHECK(missing <= kSteps * of_residual);
      CHECK(std::fabs(left[i]) <= once);
    }
  }
}

}  // namespace
// Of 32 bits, and of 8 bits in any part of the array.
TEST(a_residual_is_added_once) {
  for (const std::size_t count : {0, 1, 1023, 2048, 5000}) {
    const Floats source = random_floats(count, 5, 1.0F);
    Floats lost = random_floats(count, 6, 1e-2F);
    const Guarded coded(count);
    store(lost.data(), coded.view());
    for (const std::size_t first : {count / 3, std::size_t{0}}) {
      const auto middle = static_cast<int64_t>(first);
      for (const bool in_8_bits : {false, true}) {
        const Residual residual = in_8_bits ? coded.view() : Residual{.values = lost.data()};
        const Floats before = in_8_bits ? coded.values() : lost;
        Floats values(source.begin() + middle, source.end());
        add_residual(residual, first, values);
        for (std::size_t i = 0; i < values.size(); ++i)
          CHECK_EQ(values[i], source[first + i] + before[first + i]);
        const Floats after = in_8_bits ? coded.values() : lost;
        CHECK(std::all_of(after.begin() + middle, after.end(), [](float x) { return x == 0; }));
      }
    }
    coded.check_guards();
  }
}

TEST(a_residual_waits_where_the_sum_is_not_finite) {
  Floats values{1, INFINITY, NAN, 2};
  Floats lost{0.5F, 0.5F, 0.5F, 0.5F};
  add_residual({.values = lost.data()}, 0, values);
  CHECK(same_bits(lost, Floats{0, 0.5F, 0.5F, 0}));
  CHECK_EQ(values[0], 1.5F);
  CHECK_EQ(values[3], 2.5F);
}

}  // namespace fastgpu
