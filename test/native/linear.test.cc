// Matrix products and linear layers against triple loops in double; bits depend neither on threads nor on
// other rows.
#include "cases.h"

namespace softmoe::testing {
namespace {

struct Strides {
  std::int64_t outer, k;
};

// c[s, i, j] = sum over e of a[s, i, e] b[s, e, j].
std::vector<double> product(const std::vector<double>& a, Strides a_stride, const std::vector<double>& b,
                            Strides b_stride, std::int64_t batch, std::int64_t m, std::int64_t n,
                            std::int64_t k) {
  std::vector<double> c;
  for (std::int64_t s = 0; s < batch; ++s) {
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::int64_t e = 0; e < k; ++e) {
          sum += a[static_cast<std::size_t>(s * m * k + i * a_stride.outer + e * a_stride.k)] *
                 b[static_cast<std::size_t>(s * k * n + e * b_stride.k + j * b_stride.outer)];
        }
        c.push_back(sum);
      }
    }
  }
  return c;
}

void check_matmul(Kernels& kernels, Random& random) {
  const DType dtype = random.dtype(), y_dtype = random.choose({DType::kFloat32, dtype});
  const std::int64_t batch = random.integer(0, 3), m = random.awkward_size(), n = random.awkward_size();
  const std::int64_t k = random.choose({random.awkward_size(), random.integer(380, 1700)});
  MatMul args;
  args.batch = batch, args.m = m, args.n = n, args.k = k;
  args.transpose_a = random.boolean(), args.transpose_b = random.boolean(),
  args.accumulate = random.boolean();
  args.alpha = random.choose({1.0, 0.25});
  const Context context("matmul " + std::to_string(batch) + "x" + std::to_string(m) + "x" +
                        std::to_string(n) + "x" + std::to_string(k) + (args.transpose_a ? " ta" : "") +
                        (args.transpose_b ? " tb" : ""));
  const Values a = random.values(dtype, batch * m * k), b = random.values(dtype, batch * k * n);
  const Values before = random.values(y_dtype, batch * m * n);
  std::vector<double> wanted =
      product(a.doubles(), args.transpose_a ? Strides{1, m} : Strides{k, 1}, b.doubles(),
              args.transpose_b ? Strides{k, 1} : Strides{1, n}, batch, m, n, k);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    wanted[i] = args.alpha * wanted[i] + (args.accumulate ? before[static_cast<std::int64_t>(i)] : 0);
  }
  Values y = before;
  args.a = a.buffer(), args.b = b.buffer();
  check_same_on_any_threads(
      [&] {
        y = before;
        args.y = y.buffer();
        kernels.run(args);
      },
      {&y});
  CHECK_CLOSE(y, wanted, tolerance_of(y_dtype));
}

void check_linear(Kernels& kernels, Random& random) {
  const DType dtype = random.dtype(), y_dtype = random.choose({DType::kFloat32, dtype});
  const std::int64_t rows = random.awkward_size(), in = random.awkward_size(), out = random.awkward_size();
  const Context context(std::string(name_of(dtype)) + " rows " + std::to_string(rows) + " in " +
                        std::to_string(in) + " out " + std::to_string(out));
  const Values x = random.values(dtype, rows * in), w = random.values(dtype, in * out, 0.2);
  const Values bias = random.values(DType::kFloat32, out);
  const Values pre(dtype, rows * out), y(y_dtype, rows * out);
  LinearForward forward;
  forward.x = x.buffer(), forward.w = w.buffer(), forward.y = y.buffer();
  forward.rows = rows, forward.in = in, forward.out = out;
  const bool has_bias = random.boolean(), keeps_pre = random.boolean();
  if (has_bias) forward.bias = bias.buffer();
  if (keeps_pre) forward.pre = pre.buffer();
  forward.activation =
      random.choose({Activation::kNone, Activation::kGeluTanh, Activation::kGeluErf, Activation::kTanh});
  check_same_on_any_threads([&] { kernels.run(forward); }, {&y});
  std::vector<double> wanted_pre = product(x.doubles(), {in, 1}, w.doubles(), {1, out}, 1, rows, out, in),
                      wanted;
  for (std::size_t i = 0; i < wanted_pre.size(); ++i) {
    if (has_bias) wanted_pre[i] += bias[static_cast<std::int64_t>(i) % out];
    wanted.push_back(activation_value(forward.activation, wanted_pre[i]));
  }
  CHECK_CLOSE(y, wanted, tolerance_of(y_dtype));
  if (keeps_pre) CHECK_CLOSE(pre, wanted_pre, tolerance_of(dtype));

  // Rows alone have the same bits as among others.
  if (rows > 0 && out > 0) {
    const std::int64_t first = random.integer(0, rows - 1), some = random.integer(1, rows - first);
    const Values alone(y_dtype, some * out);
    LinearForward single = forward;
    single.pre = Buffer{};
    single.rows = some;
    single.x = part(x, first * in);
    single.y = alone.buffer();
    kernels.run(single);
    CHECK(std::memcmp(alone.buffer().data, part(y, first * out).data,
                      static_cast<std::size_t>(some * out) * size_of(y_dtype)) == 0);
  }

  const Values dy = random.values(dtype, rows * out), dx(dtype, rows * in);
  LinearBackwardInput input;
  input.dy = dy.buffer(), input.w = w.buffer(), input.dx = dx.buffer();
  input.rows = rows, input.in = in, input.out = out;
  check_same_on_any_threads([&] { kernels.run(input); }, {&dx});
  CHECK_CLOSE(dx, product(dy.doubles(), {out, 1}, w.doubles(), {out, 1}, 1, rows, in, out),
              tolerance_of(dtype));

  const Values dw(DType::kFloat32, in * out), dbias(DType::kFloat32, out);
  LinearBackwardWeight weight;
  weight.x = x.buffer(), weight.dy = dy.buffer(), weight.dw = dw.buffer();
  if (has_bias) weight.dbias = dbias.buffer();
  weight.rows = rows, weight.in = in, weight.out = out;
  check_same_on_any_threads([&] { kernels.run(weight); }, {&dw, &dbias});
  CHECK_CLOSE(dw, product(x.doubles(), {1, in}, dy.doubles(), {1, out}, 1, in, out, rows), 2e-5);
  if (has_bias) {
    std::vector<double> sums(static_cast<std::size_t>(out));
    for (std::int64_t i = 0; i < rows * out; ++i) sums[static_cast<std::size_t>(i % out)] += dy[i];
    CHECK_CLOSE(dbias, sums, 2e-5);
  }
}

TEST(matmul_agrees_with_loops) {
  for_each_instruction_set(
      [](Kernels& kernels) { for_random_cases(60, [&](Random& random) { check_matmul(kernels, random); }); });
}

TEST(linear_layers_agree_with_loops) {
  for_each_instruction_set(
      [](Kernels& kernels) { for_random_cases(60, [&](Random& random) { check_linear(kernels, random); }); });
}

// However many rows there are, and so whether weights are packed or read where they lie.
TEST(linear_rows_do_not_depend_on_their_number) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      constexpr std::int64_t kRows = 130, kIn = 801, kOut = 100;
      Random random(7);
      const Values x = random.values(dtype, kRows * kIn), w = random.values(dtype, kIn * kOut, 0.2);
      const Values all(dtype, kRows * kOut);
      LinearForward args;
      args.x = x.buffer(), args.w = w.buffer(), args.y = all.buffer();
      args.rows = kRows, args.in = kIn, args.out = kOut;
      kernels.run(args);
      for (const std::int64_t rows : {1, 2, 6, 7, 14, 15, 60, 100}) {
        const Context context(std::string(name_of(dtype)) + ", " + std::to_string(rows) + " rows");
        const Values some(dtype, rows * kOut);
        args.y = some.buffer(), args.rows = rows;
        kernels.run(args);
        CHECK(std::memcmp(some.buffer().data, all.buffer().data,
                          static_cast<std::size_t>(rows * kOut) * size_of(dtype)) == 0);
      }
    }
  });
}

}  // namespace
}  // namespace softmoe::testing
