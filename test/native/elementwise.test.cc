// Every elementwise kernel on every instruction set against loops in double.
#include "core/kernels/elementwise.h"

#include <cstring>

#include "core/philox.h"
#include "cpu/thread_pool.h"
#include "testing.h"

namespace softmoe::testing {
namespace {

constexpr DType kF32 = DType::kFloat32, kBF16 = DType::kBFloat16, kI32 = DType::kInt32;
// Odd, so that vectors and chunks have rests; large enough for several chunks.
constexpr std::int64_t kCount = 40003;

double tolerance(DType dtype) { return dtype == kBF16 ? 4e-3 : 1e-6; }

template <class Function>
std::vector<double> map(const std::vector<double>& x, const Function& f) {
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = f(x[i], static_cast<std::int64_t>(i));
  return y;
}

TEST(fill_sets_every_dtype) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {kF32, kBF16, kI32}) {
      Values y(dtype, kCount);
      kernels.run(Fill{y.buffer(), kCount, -3});
      CHECK_CLOSE(y, std::vector<double>(kCount, -3.0), 0);
    }
  });
}

TEST(cast_rounds_to_nearest_even) {
  for_each_instruction_set([](Kernels& kernels) {
    const std::vector<double> numbers = normals(kCount, 1, 1000);
    for (const DType from : {kF32, kBF16, kI32}) {
      for (const DType to : {kF32, kBF16, kI32}) {
        const Values x(from, numbers);
        Values y(to, kCount);
        kernels.run(Cast{x.buffer(), y.buffer(), kCount});
        std::vector<double> wanted = x.doubles();
        if (to == kI32) wanted = map(wanted, [](double v, std::int64_t) { return std::nearbyint(v); });
        CHECK_CLOSE(y, rounded(to, wanted), 0);
      }
    }
    const Values x(kF32,
                   {1.00390625, 1.01171875, NAN, INFINITY, -INFINITY, 0.5, 1.5, 3e9, -3e9, 3.4e38, -0.0});
    Values y(kBF16, 11), z(kI32, 11);
    kernels.run(Cast{x.buffer(), y.buffer(), 11});
    CHECK_CLOSE(y,
                (std::vector<double>{1, 1.015625, NAN, INFINITY, -INFINITY, 0.5, 1.5, 3003121664, -3003121664,
                                     INFINITY, 0}),
                0);
    kernels.run(Cast{x.buffer(), z.buffer(), 11});
    CHECK_CLOSE(z,
                (std::vector<double>{1, 1, 0, 2147483647, -2147483648., 0, 2, 2147483647, -2147483648.,
                                     2147483647, 0}),
                0);
  });
}

TEST(add_repeats_the_second_operand) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType a_type : {kF32, kBF16}) {
      for (const DType b_type : {kF32, kBF16}) {
        for (const std::int64_t period : {kCount, std::int64_t{1}, std::int64_t{37}, std::int64_t{20000}}) {
          const Values a(a_type, normals(kCount, 2)), b(b_type, normals(period, 3));
          const auto wanted =
              map(a.doubles(), [&](double v, std::int64_t i) { return v - 0.5 * b[i % period]; });
          Values y(b_type, kCount);
          kernels.run(Add{a.buffer(), b.buffer(), y.buffer(), kCount, period, -0.5});
          CHECK_CLOSE(y, wanted, tolerance(b_type));
          kernels.run(Add{a.buffer(), b.buffer(), a.buffer(), kCount, period, -0.5});
          CHECK_CLOSE(a, wanted, tolerance(a_type));
        }
      }
    }
  });
}

TEST(multiply_and_scale_act_elementwise) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {kF32, kBF16}) {
      const Values a(dtype, normals(kCount, 4)), b(dtype, normals(kCount, 5)),
          factor(kF32, std::vector<double>{0.25});
      Values y(dtype, kCount);
      kernels.run(Multiply{a.buffer(), b.buffer(), y.buffer(), kCount});
      CHECK_CLOSE(y, map(a.doubles(), [&](double v, std::int64_t i) { return v * b[i]; }), tolerance(dtype));
      kernels.run(Scale{a.buffer(), y.buffer(), Buffer{}, kCount, 3});
      CHECK_CLOSE(y, map(a.doubles(), [](double v, std::int64_t) { return 3 * v; }), tolerance(dtype));
      kernels.run(Scale{a.buffer(), y.buffer(), factor.buffer(), kCount, 3});
      CHECK_CLOSE(y, map(a.doubles(), [](double v, std::int64_t) { return 0.75 * v; }), tolerance(dtype));
    }
  });
}

TEST(strided_copy_moves_rows) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {kF32, kBF16, kI32}) {
      for (const std::int64_t inner : {1, 7, 30000}) {
        for (const std::int64_t x_stride : {std::int64_t{0}, inner, inner + 3}) {
          const std::int64_t outer = 5, y_stride = inner + 2;
          const Values x(dtype, normals(outer * (inner + 3), 6, 100));
          Values y(dtype, std::vector<double>(static_cast<std::size_t>(outer * y_stride), 9.0));
          std::vector<double> wanted = y.doubles();
          for (std::int64_t o = 0; o < outer; ++o) {
            for (std::int64_t i = 0; i < inner; ++i)
              wanted[static_cast<std::size_t>(o * y_stride + i)] = x[o * x_stride + i];
          }
          kernels.run(StridedCopy{x.buffer(), y.buffer(), outer, inner, x_stride, y_stride});
          CHECK_CLOSE(y, wanted, 0);
        }
      }
    }
  });
}

TEST(sum_and_broadcast_work_on_the_middle_axis) {
  struct Extents {
    std::int64_t outer, middle, inner;
  };
  for_each_instruction_set([](Kernels& kernels) {
    for (const Extents e : {Extents{1, 1, 1},
                            {1, 5000, 1},
                            {3, 129, 1},
                            {1, 1000, 384},
                            {40, 3, 17},
                            {2, 300, 700},
                            {64, 200, 33},
                            {1, 0, 5}}) {
      const Context context("extents " + std::to_string(e.outer) + " " + std::to_string(e.middle) + " " +
                            std::to_string(e.inner));
      for (const DType dtype : {kF32, kBF16}) {
        const Values x(dtype, normals(e.outer * e.middle * e.inner, 7));
        std::vector<double> wanted(static_cast<std::size_t>(e.outer * e.inner)),
            repeated(static_cast<std::size_t>(x.count()));
        for (std::int64_t o = 0; o < e.outer; ++o) {
          for (std::int64_t m = 0; m < e.middle; ++m) {
            for (std::int64_t i = 0; i < e.inner; ++i) {
              wanted[static_cast<std::size_t>(o * e.inner + i)] += 0.5 * x[(o * e.middle + m) * e.inner + i];
            }
          }
        }
        Values y(kF32, e.outer * e.inner), same(dtype, e.outer * e.inner);
        kernels.run(SumMiddle{x.buffer(), y.buffer(), e.outer, e.middle, e.inner, 0.5});
        CHECK_CLOSE(y, wanted, 2e-6);
        kernels.run(SumMiddle{x.buffer(), same.buffer(), e.outer, e.middle, e.inner, 0.5});
        CHECK_CLOSE(same, wanted, 4e-3);

        for (std::int64_t at = 0; at < x.count(); ++at) {
          repeated[static_cast<std::size_t>(at)] =
              2 * same[at / (e.middle * e.inner) * e.inner + at % e.inner];
        }
        Values back(kF32, x.count());
        kernels.run(BroadcastMiddle{same.buffer(), back.buffer(), e.outer, e.middle, e.inner, 2});
        CHECK_CLOSE(back, repeated, 0);
      }
    }
  });
}

TEST(sum_has_the_same_bits_for_any_number_of_threads_and_outer_extent) {
  cpu::ThreadPool& pool = cpu::ThreadPool::instance();
  const int before = pool.threads();
  for_each_instruction_set([&](Kernels& kernels) {
    const std::int64_t middle = 3000, inner = 48;
    const Values x(kF32, normals(8 * middle * inner, 8));
    Values one(kF32, 8 * inner), many(kF32, 8 * inner), alone(kF32, inner);
    pool.set_threads(1);
    kernels.run(SumMiddle{x.buffer(), one.buffer(), 8, middle, inner, 1});
    pool.set_threads(4);
    kernels.run(SumMiddle{x.buffer(), many.buffer(), 8, middle, inner, 1});
    kernels.run(SumMiddle{x.buffer(), alone.buffer(), 1, middle, inner, 1});
    pool.set_threads(before);
    CHECK(one.same_bits(many));
    for (std::int64_t i = 0; i < inner; ++i) CHECK(alone[i] == one[i]);
  });
}

double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

double activation_of(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return gelu_tanh(x);
    case Activation::kGeluErf:
      return gelu_erf(x);
    case Activation::kTanh:
      return std::tanh(x);
  }
  return NAN;
}

TEST(activations_and_their_gradients_agree_with_double) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const Activation activation :
         {Activation::kNone, Activation::kGeluTanh, Activation::kGeluErf, Activation::kTanh}) {
      for (const DType dtype : {kF32, kBF16}) {
        const Values x(dtype, normals(kCount, 9, 2)), dy(dtype, normals(kCount, 10));
        Values y(dtype, kCount), dx(dtype, kCount);
        kernels.run(Activate{x.buffer(), y.buffer(), kCount, activation});
        CHECK_CLOSE(y, map(x.doubles(), [&](double v, std::int64_t) { return activation_of(activation, v); }),
                    tolerance(dtype));
        kernels.run(ActivateBackward{x.buffer(), dy.buffer(), dx.buffer(), kCount, activation});
        const auto wanted = map(x.doubles(), [&](double v, std::int64_t i) {
          const double h = 1e-5;
          return dy[i] * (activation_of(activation, v + h) - activation_of(activation, v - h)) / (2 * h);
        });
        CHECK_CLOSE(dx, wanted, tolerance(dtype) + 1e-6);
        kernels.run(ActivateBackward{x.buffer(), dy.buffer(), dy.buffer(), kCount, activation});
        CHECK(dy.same_bits(dx));
      }
    }
  });
}

// Random123's known-answer vectors.
TEST(philox_gives_the_published_words) {
  const PhiloxBlock zero = philox({0, 0}, 0);
  CHECK_EQUAL(zero.word[0], 0x6627e8d5u);
  CHECK_EQUAL(zero.word[1], 0xe169c58du);
  CHECK_EQUAL(zero.word[2], 0xbc57ac4cu);
  CHECK_EQUAL(zero.word[3], 0x9b00dbd8u);
  const PhiloxBlock ones = philox({UINT64_MAX, UINT64_MAX}, UINT64_MAX);
  CHECK_EQUAL(ones.word[0], 0x408f276du);
  CHECK_EQUAL(ones.word[1], 0x41c83b0eu);
  CHECK_EQUAL(ones.word[2], 0xa20bc7c6u);
  CHECK_EQUAL(ones.word[3], 0x6d5451fdu);
  // Counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0.
  const PhiloxBlock pi = philox({0x299f31d0a4093822u, 0x0370734413198a2eu}, 0x85a308d3243f6a88u);
  CHECK_EQUAL(pi.word[0], 0xd16cfe09u);
  CHECK_EQUAL(pi.word[1], 0x94fdccebu);
  CHECK_EQUAL(pi.word[2], 0x5001e420u);
  CHECK_EQUAL(pi.word[3], 0x24126ea1u);
}

std::uint32_t word_of(const RandomKey& key, std::int64_t i) {
  return philox(key, static_cast<std::uint64_t>(i / 4)).word[i % 4];
}
double uniform_of(const RandomKey& key, std::int64_t i) { return (word_of(key, i) >> 8) * 0x1p-24; }

TEST(random_fill_draws_by_index) {
  const RandomKey key{0x123456789abcdef0u, 0xfedcba9876543210u};
  for_each_instruction_set([&](Kernels& kernels) {
    Values y(kF32, kCount);
    kernels.run(RandomFill{y.buffer(), kCount, Distribution::kUniform, 0, 1, key});
    for (std::int64_t i = 0; i < kCount; ++i)
      CHECK(y[i] == uniform_of(key, i) && uniform(key, static_cast<std::uint64_t>(i)) == y[i]);

    kernels.run(RandomFill{y.buffer(), kCount, Distribution::kNormal, 2, 3, key});
    const std::vector<double> wanted = map(y.doubles(), [&](double, std::int64_t i) {
      const std::int64_t even = i - i % 2;
      const double radius = std::sqrt(-2 * std::log(((word_of(key, even) >> 8) + 1) * 0x1p-24));
      const double angle = 2 * M_PI * uniform_of(key, even + 1);
      return 2 + 3 * radius * (i == even ? std::cos(angle) : std::sin(angle));
    });
    CHECK_CLOSE(y, wanted, 1e-6);
    for (std::int64_t i = 0; i < 1000; ++i) {
      CHECK(std::fabs(2 + 3 * normal(key, static_cast<std::uint64_t>(i)) - y[i]) < 1e-5);
    }

    kernels.run(RandomFill{y.buffer(), kCount, Distribution::kTruncatedNormal, 0, 1, key});
    // By its distribution function, which turns each draw back into the uniform number.
    const double half = std::erf(std::sqrt(2.0));
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < kCount; ++i) {
      CHECK(std::fabs(y[i]) <= 2);
      CHECK(std::fabs((std::erf(y[i] / std::sqrt(2.0)) / half + 1) / 2 - uniform_of(key, i)) < 3e-7);
      sum += y[i];
      squares += y[i] * y[i];
    }
    CHECK(std::fabs(sum / kCount) < 0.02);
    CHECK(std::fabs(std::sqrt(squares / kCount) - 0.87962566) < 0.01);

    Values half_precision(kBF16, kCount);
    kernels.run(RandomFill{half_precision.buffer(), kCount, Distribution::kTruncatedNormal, 0, 1, key});
    CHECK_CLOSE(half_precision, rounded(kBF16, y.doubles()), 0);
  });
}

TEST(dropout_keeps_by_index_and_rescales) {
  const RandomKey key{7, 3};
  for_each_instruction_set([&](Kernels& kernels) {
    for (const DType dtype : {kF32, kBF16}) {
      const Values x(dtype, normals(kCount, 11));
      Values y(dtype, kCount);
      kernels.run(Dropout{x.buffer(), y.buffer(), kCount, 0.3, key});
      CHECK_CLOSE(
          y,
          map(x.doubles(), [&](double v, std::int64_t i) { return uniform_of(key, i) < 0.3f ? 0 : v / 0.7; }),
          tolerance(dtype));
      kernels.run(Dropout{x.buffer(), y.buffer(), kCount, 0, key});
      CHECK(y.same_bits(x));
    }
  });
}

TEST(transpose_swaps_the_last_two_axes) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {kF32, kBF16, kI32}) {
      for (const auto& [rows, columns] : {std::pair{1, 50}, {50, 1}, {33, 65}, {300, 100}}) {
        const Values x(dtype, normals(3 * rows * columns, 12, 50));
        Values y(dtype, x.count());
        kernels.run(Transpose{x.buffer(), y.buffer(), 3, rows, columns});
        for (std::int64_t b = 0; b < 3; ++b) {
          for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < columns; ++c) {
              CHECK(y[(b * columns + c) * rows + r] == x[(b * rows + r) * columns + c]);
            }
          }
        }
      }
    }
  });
}

TEST(patchify_cuts_and_restores_images) {
  for_each_instruction_set([](Kernels& kernels) {
    const std::int64_t batch = 2, height = 12, width = 8, channels = 3, patch = 4;
    const Values x(kF32, rounded(kBF16, normals(batch * height * width * channels, 13)));
    Values y(kBF16, x.count()), back(kF32, x.count());
    kernels.run(Patchify{x.buffer(), y.buffer(), batch, height, width, channels, patch, false});
    std::int64_t at = 0;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t down = 0; down < height / patch; ++down) {
        for (std::int64_t across = 0; across < width / patch; ++across) {
          for (std::int64_t i = 0; i < patch; ++i) {
            for (std::int64_t j = 0; j < patch; ++j) {
              for (std::int64_t c = 0; c < channels; ++c) {
                const std::int64_t row = down * patch + i, column = across * patch + j;
                CHECK(y[at++] == x[((b * height + row) * width + column) * channels + c]);
              }
            }
          }
        }
      }
    }
    kernels.run(Patchify{y.buffer(), back.buffer(), batch, height, width, channels, patch, true});
    CHECK(back.same_bits(x));
  });
}

TEST(count_non_finite_counts_nan_and_infinity) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {kF32, kBF16}) {
      std::vector<double> numbers = normals(kCount, 14);
      numbers[0] = NAN;
      numbers[20000] = INFINITY;
      numbers[kCount - 1] = -INFINITY;
      const Values x(dtype, numbers);
      Values y(kI32, 1);
      kernels.run(CountNonFinite{x.buffer(), y.buffer(), kCount});
      CHECK_EQUAL(y[0], 3);
    }
  });
}

}  // namespace
}  // namespace softmoe::testing
