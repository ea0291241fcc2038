// Experts with weights packed once: float32 and bfloat16 give the bits of the plain experts; int8 stays
// within the error that its rounding allows, and is the same on every instruction set up to its float
// epilogue.
#include <algorithm>
#include <map>

#include "cases.h"

namespace softmoe::testing {
namespace {

using Doubles = std::vector<double>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

struct Case {
  explicit Case(Random& random)
      : experts(random.integer(1, 5)),
        dim(random.awkward_size()),
        hidden(random.awkward_size()),
        out(random.awkward_size()),
        activation(random.choose({Activation::kGeluTanh, Activation::kGeluErf, Activation::kNone})) {
    const bool ragged = random.boolean();
    const std::int64_t uniform = random.choose<std::int64_t>({0, 1, 2, 3, 7, 8, 14, 15, 33});
    offsets.push_back(0);
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t own = ragged ? random.choose<std::int64_t>({0, 1, 2, 5, 15, 40}) : uniform;
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(own));
    }
    total = offsets.back();
    rows.num_experts = experts;
    rows.max_rows = ragged ? total + 3 : total;
    rows.rows_per_expert = ragged ? 0 : uniform;
    if (ragged) rows.offsets = offsets.data();
    tokens = rows.max_rows;
    if (random.boolean()) {
      tokens = 7;
      for (std::int64_t r = 0; r < rows.max_rows; ++r) {
        gather.push_back(r < total ? static_cast<std::int32_t>(random.integer(0, tokens - 1)) : -1);
      }
      rows.gather = gather.data();
    }
  }
  std::int64_t token(std::int64_t row) const { return gather.empty() ? row : gather[at(row)]; }
  std::int64_t expert(std::int64_t row) const {
    std::int64_t e = 0;
    while (offsets[at(e + 1)] <= row) ++e;
    return e;
  }
  std::string text() const {
    return "rows " + std::to_string(total) + " of " + std::to_string(experts) + " dim " +
           std::to_string(dim) + " hidden " + std::to_string(hidden) + " out " + std::to_string(out) +
           (rows.offsets ? " ragged" : "") + (rows.gather ? " gathered" : "");
  }

  std::int64_t experts, dim, hidden, out;
  Activation activation;
  std::vector<std::int32_t, OperandAllocator<std::int32_t>> offsets, gather;
  ExpertRows rows;
  std::int64_t total = 0, tokens = 0;
};

// The results of the rows that are there.
Doubles used(const Case& c, const Values& y) {
  Doubles values = y.doubles();
  values.resize(at(c.total * c.out));
  return values;
}

struct Weights {
  Weights(const Case& c, Random& random, double bias)
      : w1(random.values(DType::kFloat32, c.experts * c.dim * c.hidden, 0.3)),
        b1(random.values(DType::kFloat32, c.experts * c.hidden, bias)),
        w2(random.values(DType::kFloat32, c.experts * c.hidden * c.out, 0.3)),
        b2(random.values(DType::kFloat32, c.experts * c.out, bias)) {}
  Values w1, b1, w2, b2;
};

Values freeze(Kernels& kernels, const Case& c, const Weights& weights, WeightFormat format) {
  const FrozenLayout layout(format, c.experts, c.dim, c.hidden, c.out);
  const Values frozen(DType::kInt32, layout.bytes / 4);
  FreezeExperts args;
  args.w1 = weights.w1.buffer(), args.b1 = weights.b1.buffer();
  args.w2 = weights.w2.buffer(), args.b2 = weights.b2.buffer(), args.frozen = frozen.buffer();
  args.num_experts = c.experts, args.dim = c.dim, args.hidden = c.hidden, args.out = c.out;
  args.format = format;
  kernels.run(args);
  return frozen;
}

FrozenExpertsForward forward_of(const Case& c, const Values& x, const Values& frozen, WeightFormat format,
                                const Values& y) {
  FrozenExpertsForward args;
  args.rows = c.rows;
  args.x = x.buffer(), args.frozen = frozen.buffer(), args.y = y.buffer();
  args.dim = c.dim, args.hidden = c.hidden, args.out = c.out;
  args.activation = c.activation, args.format = format;
  return args;
}

// A row alone has the bits that it has among others.
void check_row_alone(Kernels& kernels, const Case& c, Random& random, FrozenExpertsForward args,
                     const Values& y, DType dtype) {
  if (c.total == 0 || c.out == 0) return;
  const std::int64_t row = random.integer(0, c.total - 1), expert = c.expert(row);
  const Values alone(dtype, c.out);
  std::vector<double> offsets(at(c.experts + 1));
  for (std::int64_t e = expert + 1; e <= c.experts; ++e) offsets[at(e)] = 1;
  const Values one_row(DType::kInt32, offsets);
  const Values token(DType::kInt32, Doubles{static_cast<double>(c.token(row))});
  args.rows = {c.experts, 0, one_row.buffer().as<std::int32_t>(), 1, token.buffer().as<std::int32_t>()};
  args.y = alone.buffer();
  kernels.run(args);
  CHECK(std::memcmp(alone.buffer().data, part(y, row * c.out).data, at(c.out) * size_of(dtype)) == 0);
}

void check_plain_bits(Kernels& kernels, Random& random) {
  const Case c(random);
  const DType dtype = random.dtype();
  const WeightFormat format = dtype == DType::kFloat32 ? WeightFormat::kFloat32 : WeightFormat::kBFloat16;
  const Context context(std::string(name_of(dtype)) + " " + c.text());
  const Weights weights(c, random, 1);
  const Values x = random.values(dtype, c.tokens * c.dim);
  const Values w1(dtype, weights.w1.doubles()), w2(dtype, weights.w2.doubles());
  const Values plain(dtype, c.rows.max_rows * c.out), y(dtype, c.rows.max_rows * c.out);
  ExpertsForward args;
  args.rows = c.rows;
  args.x = x.buffer(), args.w1 = w1.buffer(), args.b1 = weights.b1.buffer();
  args.w2 = w2.buffer(), args.b2 = weights.b2.buffer(), args.y = plain.buffer();
  args.dim = c.dim, args.hidden = c.hidden, args.out = c.out, args.activation = c.activation;
  kernels.run(args);
  const Values frozen = freeze(kernels, c, weights, format);
  const FrozenExpertsForward forward = forward_of(c, x, frozen, format, y);
  check_same_on_any_threads([&] { kernels.run(forward); }, {&y});
  CHECK(y.same_bits(plain));
  check_row_alone(kernels, c, random, forward, y, dtype);

  // The other dtype of x: float32 is rounded for products of bfloat16, bfloat16 is widened for those of
  // float32.
  const DType other = dtype == DType::kFloat32 ? DType::kBFloat16 : DType::kFloat32;
  const Values other_y(other, c.rows.max_rows * c.out);
  const Values other_x(other, rounded(DType::kBFloat16, x.doubles()));
  const Values rounded_x(dtype, other_x.doubles());
  args.x = rounded_x.buffer();
  kernels.run(args);
  const FrozenExpertsForward mixed = forward_of(c, other_x, frozen, format, other_y);
  check_same_on_any_threads([&] { kernels.run(mixed); }, {&other_y});
  check_row_alone(kernels, c, random, mixed, other_y, other);
  CHECK_CLOSE(used(c, other_y), used(c, plain), 2e-2);
}

// What the formulas of int8_product.h allow: half a step for each rounded operand of both products.
struct Int8Bound {
  Int8Bound(const Case& c, const Weights& weights, const Values& x)
      : wanted(Values(DType::kFloat32, c.rows.max_rows * c.out).doubles()), allowed(wanted.size()) {
    constexpr double kSteepest = 1.13;  // of both GELUs
    for (std::int64_t row = 0; row < c.total; ++row) {
      const std::int64_t e = c.expert(row);
      Doubles a(at(c.hidden)), error(at(c.hidden));
      const double step = range(x, c.token(row) * c.dim, c.dim) / 255 / 2;
      for (std::int64_t h = 0; h < c.hidden; ++h) {
        double pre = weights.b1[e * c.hidden + h], bound = 0;
        const double weight_step = largest(weights.w1, e * c.dim * c.hidden + h, c.dim, c.hidden) / 127 / 2;
        for (std::int64_t d = 0; d < c.dim; ++d) {
          const double value = x[c.token(row) * c.dim + d];
          const double weight = weights.w1[(e * c.dim + d) * c.hidden + h];
          pre += value * weight;
          bound += std::abs(value) * weight_step + step * (std::abs(weight) + weight_step);
        }
        a[at(h)] = activation_value(c.activation, pre);
        error[at(h)] = kSteepest * (bound + 1e-5 * std::abs(pre)) + 1e-6;
      }
      double low = 0, high = 0;
      for (std::int64_t h = 0; h < c.hidden; ++h) {
        low = std::min(low, a[at(h)] - error[at(h)]);
        high = std::max(high, a[at(h)] + error[at(h)]);
      }
      const double hidden_step = (high - low) / 255 / 2;
      for (std::int64_t o = 0; o < c.out; ++o) {
        double y = weights.b2[e * c.out + o], bound = 0;
        const double weight_step = largest(weights.w2, e * c.hidden * c.out + o, c.hidden, c.out) / 127 / 2;
        for (std::int64_t h = 0; h < c.hidden; ++h) {
          const double weight = weights.w2[(e * c.hidden + h) * c.out + o];
          y += a[at(h)] * weight;
          bound += error[at(h)] * std::abs(weight) + (std::abs(a[at(h)]) + error[at(h)]) * weight_step +
                   hidden_step * (std::abs(weight) + weight_step);
        }
        wanted[at(row * c.out + o)] = y;
        allowed[at(row * c.out + o)] = bound * (1 + 1e-4) + 1e-5 * (1 + std::abs(y));
      }
    }
  }
  Doubles wanted, allowed;

 private:
  static double range(const Values& values, std::int64_t first, std::int64_t count) {
    double low = 0, high = 0;
    for (std::int64_t i = first; i < first + count; ++i) {
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
    }
    return high - low;
  }
  static double largest(const Values& values, std::int64_t first, std::int64_t count, std::int64_t stride) {
    double size = 0;
    for (std::int64_t i = 0; i < count; ++i) size = std::max(size, std::abs(values[first + i * stride]));
    return size;
  }
};

void check_int8(Kernels& kernels, Random& random) {
  const Case c(random);
  const Context context(c.text());
  const Weights weights(c, random, 1);
  const Values x = random.values(DType::kFloat32, c.tokens * c.dim, 2);
  const Values y(DType::kFloat32, c.rows.max_rows * c.out);
  const Values frozen = freeze(kernels, c, weights, WeightFormat::kInt8);
  const FrozenExpertsForward forward = forward_of(c, x, frozen, WeightFormat::kInt8, y);
  check_same_on_any_threads([&] { kernels.run(forward); }, {&y});
  check_row_alone(kernels, c, random, forward, y, DType::kFloat32);
  const Int8Bound bound(c, weights, x);
  for (std::int64_t i = 0; i < c.total * c.out; ++i) {
    CHECK(std::abs(y[i] - bound.wanted[at(i)]) <= bound.allowed[at(i)]);
  }
  // Rows past the last expert's keep what they held.
  for (std::int64_t i = c.total * c.out; i < y.count(); ++i) CHECK(std::isnan(y[i]));

  const Values narrow_x(DType::kBFloat16, x.doubles()), narrow_y(DType::kBFloat16, y.count());
  kernels.run(forward_of(c, narrow_x, frozen, WeightFormat::kInt8, narrow_y));
  const Values wide_x(DType::kFloat32, narrow_x.doubles());
  kernels.run(forward_of(c, wide_x, frozen, WeightFormat::kInt8, y));
  CHECK(used(c, narrow_y) == rounded(DType::kBFloat16, used(c, y)));
}

TEST(frozen_experts_have_the_bits_of_plain_ones) {
  if (tests_cuda()) return;
  for_each_instruction_set([](Kernels& kernels) {
    for_random_cases(60, [&](Random& random) { check_plain_bits(kernels, random); });
  });
}

TEST(int8_experts_stay_within_the_error_of_their_rounding) {
  if (tests_cuda()) return;
  for_each_instruction_set(
      [](Kernels& kernels) { for_random_cases(60, [&](Random& random) { check_int8(kernels, random); }); });
}

// Without biases and activation the epilogue is two multiplications, the same on every instruction set.
TEST(int8_experts_have_the_same_sums_on_every_instruction_set) {
  if (tests_cuda()) return;
  std::map<int, Values> first;
  for_each_instruction_set([&](Kernels& kernels) {
    int seed = 0;
    for_random_cases(30, [&](Random& random) {
      Case c(random);
      c.activation = Activation::kNone;
      const Context context(c.text());
      const Weights weights(c, random, 0);
      const Values x = random.values(DType::kFloat32, c.tokens * c.dim, 2);
      const Values y(DType::kFloat32, c.rows.max_rows * c.out);
      const Values frozen = freeze(kernels, c, weights, WeightFormat::kInt8);
      kernels.run(forward_of(c, x, frozen, WeightFormat::kInt8, y));
      const auto [entry, is_new] = first.emplace(seed++, y);
      if (!is_new) CHECK(y.same_bits(entry->second));
    });
  });
}

// Codes, weights and scales that are whole numbers: the result is exact. The largest codes and weights of
// equal sign show that no sum saturates.
TEST(int8_experts_are_exact_where_rounding_is) {
  if (tests_cuda()) return;
  for_each_instruction_set([](Kernels& kernels) {
    for_random_cases(20, [&](Random& random) {
      Case c(random);
      c.activation = Activation::kNone;
      c.hidden = c.dim = std::max<std::int64_t>(c.dim, 2);
      const Context context(c.text());
      Weights weights(c, random, 0);
      const bool extreme = random.boolean();
      for (std::int64_t i = 0; i < weights.w1.count(); ++i) {
        weights.w1.set(i, i % (c.dim * c.dim) % (c.dim + 1) == 0 ? 127 : 0);
      }
      for (std::int64_t i = 0; i < weights.w2.count(); ++i) {
        const bool is_first_row = i % (c.hidden * c.out) < c.out;
        weights.w2.set(i, extreme || is_first_row ? 127 : static_cast<double>(random.integer(-127, 127)));
      }
      Values x(DType::kFloat32, c.tokens * c.dim);
      for (std::int64_t i = 0; i < x.count(); ++i) {
        x.set(i, i % c.dim == 0   ? 255
                 : i % c.dim == 1 ? 0
                 : extreme        ? 255
                                  : static_cast<double>(random.integer(0, 255)));
      }
      const Values y(DType::kFloat32, c.rows.max_rows * c.out);
      const Values frozen = freeze(kernels, c, weights, WeightFormat::kInt8);
      kernels.run(forward_of(c, x, frozen, WeightFormat::kInt8, y));
      for (std::int64_t row = 0; row < c.total; ++row) {
        for (std::int64_t o = 0; o < c.out; ++o) {
          double sum = 0;
          for (std::int64_t d = 0; d < c.dim; ++d) {
            sum += x[c.token(row) * c.dim + d] * weights.w2[(c.expert(row) * c.hidden + d) * c.out + o];
          }
          CHECK_EQUAL(y[row * c.out + o], static_cast<double>(static_cast<float>(127 * sum)));
        }
      }
    });
  });
}

// Nothing that is not finite is served as a number, and nothing else is touched by it.
TEST(int8_rows_with_nan_or_infinity_are_nan) {
  if (tests_cuda()) return;
  for_each_instruction_set([](Kernels& kernels) {
    for_random_cases(20, [&](Random& random) {
      const Case c(random);
      const Context context(c.text());
      if (c.total == 0 || c.dim == 0 || c.hidden == 0) return;
      Weights weights(c, random, 1);
      Values x = random.values(DType::kFloat32, c.tokens * c.dim);
      const Values good(DType::kFloat32, c.rows.max_rows * c.out), y = good;
      const Values frozen = freeze(kernels, c, weights, WeightFormat::kInt8);
      kernels.run(forward_of(c, x, frozen, WeightFormat::kInt8, good));
      const std::int64_t token = c.token(random.integer(0, c.total - 1));
      x.set(token * c.dim + random.integer(0, c.dim - 1), random.choose({NAN, INFINITY, -INFINITY}));
      kernels.run(forward_of(c, x, frozen, WeightFormat::kInt8, y));
      for (std::int64_t i = 0; i < c.total * c.out; ++i) {
        CHECK(c.token(i / c.out) == token ? std::isnan(y[i]) : y[i] == good[i]);
      }
      // A weight that is not finite: of its expert, every row.
      const std::int64_t expert = random.integer(0, c.experts - 1);
      weights.w1.set(expert * c.dim * c.hidden + random.integer(0, c.dim * c.hidden - 1), NAN);
      const Values broken = freeze(kernels, c, weights, WeightFormat::kInt8);
      kernels.run(forward_of(c, x, broken, WeightFormat::kInt8, y));
      for (std::int64_t i = 0; i < c.total * c.out; ++i) {
        const bool is_nan = c.token(i / c.out) == token || c.expert(i / c.out) == expert;
        CHECK(is_nan ? std::isnan(y[i]) : y[i] == good[i]);
      }
    });
  });
}

}  // namespace
}  // namespace softmoe::testing
