// The batched expert MLP, forward and backward, against loops in double: uniform and ragged rows, gathered or
// not, with dropout; a row's bits do not depend on the rows beside it.
#include "cases.h"
#include "core/philox.h"

namespace softmoe::testing {
namespace {

using Doubles = std::vector<double>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

double dropout_factor(const RandomKey& key, std::int64_t index, double rate) {
  if (rate == 0) return 1;
  const std::uint32_t word = philox(key, static_cast<std::uint64_t>(index / 4)).word[index % 4];
  return (word >> 8) * 0x1p-24 < static_cast<double>(static_cast<float>(rate)) ? 0 : 1 / (1 - rate);
}

struct Case {
  explicit Case(Random& random)
      : dtype(random.dtype()),
        experts(random.integer(1, 5)),
        dim(random.awkward_size()),
        hidden(random.awkward_size()),
        out(random.choose({dim, random.awkward_size()})),
        rate(random.choose({0.0, 0.0, 0.3})),
        activation(random.choose({Activation::kGeluTanh, Activation::kGeluErf, Activation::kNone})) {
    const bool ragged = random.boolean();
    const std::int64_t uniform = random.choose<std::int64_t>({0, 1, 3, 16, 33});
    offsets.push_back(0);
    for (std::int64_t e = 0; e < experts; ++e) {
      offsets.push_back(
          offsets.back() +
          static_cast<std::int32_t>(ragged ? random.choose<std::int64_t>({0, 1, 2, 15, 40}) : uniform));
    }
    total = offsets.back();
    max_rows = ragged ? total + 3 : total;
    rows.num_experts = experts;
    rows.max_rows = max_rows;
    rows.rows_per_expert = ragged ? 0 : uniform;
    if (ragged) rows.offsets = offsets.data();
    tokens = max_rows;
    if (random.boolean()) {
      tokens = 7;
      for (std::int64_t r = 0; r < max_rows; ++r) {
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

  DType dtype;
  std::int64_t experts, dim, hidden, out;
  double rate;
  Activation activation;
  std::vector<std::int32_t, OperandAllocator<std::int32_t>> offsets, gather;
  ExpertRows rows;
  std::int64_t total = 0, max_rows = 0, tokens = 0;
  RandomKey key{77, 5};
};

void check_experts(Kernels& kernels, Random& random) {
  const Case c(random);
  const Context context(std::string(name_of(c.dtype)) + " rows " + std::to_string(c.total) + " dim " +
                        std::to_string(c.dim) + " hidden " + std::to_string(c.hidden) + " out " +
                        std::to_string(c.out) + (c.rows.offsets ? " ragged" : "") +
                        (c.rows.gather ? " gathered" : "") + " dropout " + std::to_string(c.rate));
  const auto rounded_to_dtype = [&](const Doubles& values) { return rounded(c.dtype, values); };
  const Values x = random.values(c.dtype, c.tokens * c.dim);
  const Values w1 = random.values(c.dtype, c.experts * c.dim * c.hidden, 0.3);
  const Values w2 = random.values(c.dtype, c.experts * c.hidden * c.out, 0.3);
  const Values b1 = random.values(DType::kFloat32, c.experts * c.hidden);
  const Values b2 = random.values(DType::kFloat32, c.experts * c.out);
  const Values pre(c.dtype, c.max_rows * c.hidden), y(c.dtype, c.max_rows * c.out);

  ExpertsForward forward;
  forward.rows = c.rows;
  forward.x = x.buffer(), forward.w1 = w1.buffer(), forward.b1 = b1.buffer();
  forward.w2 = w2.buffer(), forward.b2 = b2.buffer(), forward.pre = pre.buffer(), forward.y = y.buffer();
  forward.dim = c.dim, forward.hidden = c.hidden, forward.out = c.out;
  forward.activation = c.activation, forward.dropout_rate = c.rate, forward.key = c.key;
  check_same_on_any_threads([&] { kernels.run(forward); }, {&pre, &y});

  const RandomKey outer{c.key.seed, c.key.stream + 1};
  // Rows past the last expert's keep what they held.
  Doubles wanted_pre = Values(c.dtype, c.max_rows * c.hidden).doubles();
  Doubles wanted_y = Values(c.dtype, c.max_rows * c.out).doubles(), activated(at(c.total * c.hidden));
  for (std::int64_t r = 0; r < c.total; ++r) {
    const std::int64_t e = c.expert(r);
    for (std::int64_t h = 0; h < c.hidden; ++h) {
      double sum = b1[e * c.hidden + h];
      for (std::int64_t d = 0; d < c.dim; ++d)
        sum += x[c.token(r) * c.dim + d] * w1[(e * c.dim + d) * c.hidden + h];
      wanted_pre[at(r * c.hidden + h)] = sum;
    }
  }
  // The second product takes what the first one stored.
  const Doubles stored_pre = pre.doubles();
  for (std::int64_t i = 0; i < c.total * c.hidden; ++i) {
    activated[at(i)] = activation_value(c.activation, wanted_pre[at(i)]) * dropout_factor(c.key, i, c.rate);
  }
  activated = rounded_to_dtype(activated);
  for (std::int64_t r = 0; r < c.total; ++r) {
    for (std::int64_t o = 0; o < c.out; ++o) {
      double sum = b2[c.expert(r) * c.out + o];
      for (std::int64_t h = 0; h < c.hidden; ++h) {
        sum += activated[at(r * c.hidden + h)] * w2[(c.expert(r) * c.hidden + h) * c.out + o];
      }
      wanted_y[at(r * c.out + o)] = sum * dropout_factor(outer, r * c.out + o, c.rate);
    }
  }
  const double tolerance = c.dtype == DType::kBFloat16 ? 1e-2 : 2e-5;
  CHECK_CLOSE(pre, wanted_pre, tolerance);
  CHECK_CLOSE(y, wanted_y, tolerance);

  const Values dy = random.values(c.dtype, c.max_rows * c.out), dx(c.dtype, c.max_rows * c.dim);
  const Values dw1(DType::kFloat32, w1.count()), db1(DType::kFloat32, b1.count());
  const Values dw2(DType::kFloat32, w2.count()), db2(DType::kFloat32, b2.count());
  ExpertsBackward backward;
  backward.rows = c.rows;
  backward.x = x.buffer(), backward.w1 = w1.buffer(), backward.w2 = w2.buffer(), backward.pre = pre.buffer();
  backward.dy = dy.buffer();
  const bool wants_dx = random.integer(0, 3) > 0, wants_weights = random.integer(0, 3) > 0;
  if (wants_dx) backward.dx = dx.buffer();
  if (wants_weights) {
    backward.dw1 = dw1.buffer(), backward.db1 = db1.buffer();
    backward.dw2 = dw2.buffer(), backward.db2 = db2.buffer();
  }
  backward.dim = c.dim, backward.hidden = c.hidden, backward.out = c.out;
  backward.activation = c.activation, backward.dropout_rate = c.rate, backward.key = c.key;
  check_same_on_any_threads([&] { kernels.run(backward); }, {&dx, &dw1, &db1, &dw2, &db2});

  Doubles wanted_dx = Values(c.dtype, c.max_rows * c.dim).doubles();
  Doubles wanted_dw1(at(w1.count())), wanted_db1(at(b1.count())), wanted_dw2(at(w2.count())),
      wanted_db2(at(b2.count()));
  for (std::int64_t r = 0; r < c.total; ++r) {
    const std::int64_t e = c.expert(r);
    Doubles gradient(at(c.out)), dpre(at(c.hidden));
    for (std::int64_t o = 0; o < c.out; ++o) {
      gradient[at(o)] = dy[r * c.out + o] * dropout_factor(outer, r * c.out + o, c.rate);
      wanted_db2[at(e * c.out + o)] += gradient[at(o)];
    }
    for (std::int64_t h = 0; h < c.hidden; ++h) {
      const double x_pre = stored_pre[at(r * c.hidden + h)];
      const double factor = dropout_factor(c.key, r * c.hidden + h, c.rate);
      const double hidden_value = activation_value(c.activation, x_pre) * factor;
      double sum = 0;
      for (std::int64_t o = 0; o < c.out; ++o) {
        const std::int64_t weight = (e * c.hidden + h) * c.out + o;
        sum += gradient[at(o)] * w2[weight];
        wanted_dw2[at(weight)] += hidden_value * gradient[at(o)];
      }
      dpre[at(h)] = sum * factor * activation_slope(c.activation, x_pre);
      wanted_db1[at(e * c.hidden + h)] += dpre[at(h)];
    }
    for (std::int64_t d = 0; d < c.dim; ++d) {
      double sum = 0;
      for (std::int64_t h = 0; h < c.hidden; ++h) {
        const std::int64_t weight = (e * c.dim + d) * c.hidden + h;
        sum += dpre[at(h)] * w1[weight];
        wanted_dw1[at(weight)] += x[c.token(r) * c.dim + d] * dpre[at(h)];
      }
      wanted_dx[at(r * c.dim + d)] = sum;
    }
  }
  if (wants_dx) CHECK_CLOSE(dx, wanted_dx, tolerance);
  if (wants_weights) {
    CHECK_CLOSE(dw1, wanted_dw1, tolerance);
    CHECK_CLOSE(db1, wanted_db1, tolerance);
    CHECK_CLOSE(dw2, wanted_dw2, tolerance);
    CHECK_CLOSE(db2, wanted_db2, tolerance);
  }

  // One expert's rows alone, without what is kept for the backward: the same bits.
  if (c.rate == 0 && c.total > 0 && c.out > 0) {
    const std::int64_t row = random.integer(0, c.total - 1), e = c.expert(row);
    const Values alone(c.dtype, c.out);
    ExpertsForward single = forward;
    const Values token(DType::kInt32, std::vector<double>{static_cast<double>(c.token(row))});
    single.rows = {1, 1, nullptr, 1, token.buffer().as<std::int32_t>()};
    single.w1 = part(w1, e * c.dim * c.hidden), single.b1 = part(b1, e * c.hidden);
    single.w2 = part(w2, e * c.hidden * c.out), single.b2 = part(b2, e * c.out);
    single.pre = Buffer{};
    single.y = alone.buffer();
    kernels.run(single);
    CHECK(std::memcmp(alone.buffer().data, part(y, row * c.out).data,
                      static_cast<std::size_t>(c.out) * size_of(c.dtype)) == 0);
  }
}

TEST(experts_agree_with_loops) {
  for_each_instruction_set([](Kernels& kernels) {
    for_random_cases(60, [&](Random& random) { check_experts(kernels, random); });
  });
}

}  // namespace
}  // namespace softmoe::testing
