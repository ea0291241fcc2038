// Matrix products and linear layers against triple loops; bits do not depend on threads or on other rows.
#include "support.h"

namespace softmoe::test {
namespace {

std::int64_t awkward_size(Random& random) {
  return random.choose<std::int64_t>({0, 1, 2, 3, 5, 7, 13, 14, 15, 16, 17, 31, 32, 33, 47, 64, 97, 196, random.integer(1, 300)});
}

std::vector<double> product(const Operand& a, std::int64_t a_row, std::int64_t a_k, const Operand& b, std::int64_t b_k,
                            std::int64_t b_column, std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k) {
  std::vector<double> c;
  for (std::int64_t s = 0; s < batch; ++s) {
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::int64_t e = 0; e < k; ++e) {
          sum += a.at(s * m * k + i * a_row + e * a_k) * b.at(s * k * n + e * b_k + j * b_column);
        }
        c.push_back(sum);
      }
    }
  }
  return c;
}

void test_matmul(Machine& machine, Random& random, const std::string& label) {
  const DType dtype = random.choose({DType::kFloat32, DType::kBFloat16});
  const DType y_dtype = random.choose({DType::kFloat32, dtype});
  const std::int64_t batch = random.integer(0, 3), m = awkward_size(random), n = awkward_size(random);
  const std::int64_t k = random.choose({awkward_size(random), random.integer(380, 1700)});
  MatMul args;
  args.batch = batch, args.m = m, args.n = n, args.k = k;
  args.transpose_a = random.integer(0, 1), args.transpose_b = random.integer(0, 1);
  args.accumulate = random.integer(0, 1);
  args.alpha = random.choose({1.0, 0.25});
  Operand a = random.values(dtype, batch * m * k), b = random.values(dtype, batch * k * n);
  Operand y = random.values(y_dtype, batch * m * n);
  std::vector<double> wanted = product(a, args.transpose_a ? 1 : k, args.transpose_a ? m : 1, b,
                                       args.transpose_b ? 1 : n, args.transpose_b ? k : 1, batch, m, n, k);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    wanted[i] = args.alpha * wanted[i] + (args.accumulate ? y.at(static_cast<std::int64_t>(i)) : 0);
  }
  args.a = a.buffer(), args.b = b.buffer();
  const Operand before = y;
  std::vector<Operand> results;
  for (int threads : {2, 1, 5}) {
    Machine::pool().set_threads(threads);
    y = before;
    args.y = y.buffer();
    machine.run(args);
    results.push_back(y);
  }
  const std::string what = label + " matmul " + std::to_string(batch) + "x" + std::to_string(m) + "x" +
                           std::to_string(n) + "x" + std::to_string(k) + (args.transpose_a ? " ta" : "") +
                           (args.transpose_b ? " tb" : "") + " " + name_of(dtype) + " -> " + name_of(y_dtype);
  check_close(results[0], wanted, y_dtype == DType::kBFloat16 ? 5e-3 : 2e-5, what);
  check(results[0].same_bits(results[1]) && results[0].same_bits(results[2]), what + ": bits depend on threads");
}

void test_linear_layer(Machine& machine, Random& random, const std::string& label) {
  const DType dtype = random.choose({DType::kFloat32, DType::kBFloat16});
  const DType y_dtype = random.choose({DType::kFloat32, dtype});
  const std::int64_t rows = awkward_size(random), in = awkward_size(random), out = awkward_size(random);
  const double tolerance = dtype == DType::kBFloat16 || y_dtype == DType::kBFloat16 ? 5e-3 : 2e-5;
  Operand x = random.values(dtype, rows * in), w = random.values(dtype, in * out, 0.1);
  Operand bias = random.values(DType::kFloat32, out), pre(dtype, rows * out), y(y_dtype, rows * out);
  LinearForward forward;
  forward.x = x.buffer(), forward.w = w.buffer(), forward.y = y.buffer();
  forward.rows = rows, forward.in = in, forward.out = out;
  const bool has_bias = random.integer(0, 1), keeps_pre = random.integer(0, 1);
  if (has_bias) forward.bias = bias.buffer();
  if (keeps_pre) forward.pre = pre.buffer();
  forward.activation =
      random.choose({Activation::kNone, Activation::kGeluTanh, Activation::kGeluErf, Activation::kTanh});
  machine.run(forward);
  std::vector<double> wanted = product(x, in, 1, w, out, 1, 1, rows, out, in), wanted_pre;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (has_bias) wanted[i] += bias.at(static_cast<std::int64_t>(i) % out);
    wanted_pre.push_back(wanted[i]);
    wanted[i] = activation_value(forward.activation, wanted[i]);
  }
  const std::string what = label + " linear " + std::to_string(rows) + "x" + std::to_string(in) + "x" +
                           std::to_string(out) + " " + name_of(dtype);
  check_close(y, wanted, tolerance, what + " y");
  if (keeps_pre) check_close(pre, wanted_pre, tolerance, what + " pre");

  // One row alone gives the same bits as among others.
  if (rows > 0) {
    const std::int64_t row = random.integer(0, rows - 1);
    Operand alone(y_dtype, out);
    LinearForward single = forward;
    single.pre = Buffer{};
    single.rows = 1;
    single.x.data = x.data() + row * in * static_cast<std::int64_t>(size_of(dtype));
    single.y = alone.buffer();
    machine.run(single);
    check(std::memcmp(alone.data(), y.data() + row * out * static_cast<std::int64_t>(size_of(y_dtype)),
                      static_cast<std::size_t>(out) * size_of(y_dtype)) == 0,
          what + ": a row alone has other bits");
  }

  Operand dy = random.values(dtype, rows * out), dx(dtype, rows * in);
  LinearBackwardInput input;
  input.dy = dy.buffer(), input.w = w.buffer(), input.dx = dx.buffer();
  input.rows = rows, input.in = in, input.out = out;
  machine.run(input);
  check_close(dx, product(dy, out, 1, w, 1, out, 1, rows, in, out), tolerance, what + " dx");

  Operand dw(DType::kFloat32, in * out), dbias(DType::kFloat32, out);
  LinearBackwardWeight weight;
  weight.x = x.buffer(), weight.dy = dy.buffer(), weight.dw = dw.buffer();
  if (has_bias) weight.dbias = dbias.buffer();
  weight.rows = rows, weight.in = in, weight.out = out;
  machine.run(weight);
  check_close(dw, product(x, 1, in, dy, out, 1, 1, in, out, rows), 2e-5, what + " dw");
  if (has_bias) {
    std::vector<double> sums(static_cast<std::size_t>(out));
    for (std::int64_t i = 0; i < rows * out; ++i) sums[static_cast<std::size_t>(i % out)] += dy.at(i);
    check_close(dbias, sums, 2e-5, what + " dbias");
  }
}

}  // namespace

void test_linear(Machine& machine, std::uint32_t seed) {
  Random random(seed);
  const std::string label = machine.name + " seed " + std::to_string(seed);
  test_matmul(machine, random, label);
  test_linear_layer(machine, random, label);
}

}  // namespace softmoe::test
