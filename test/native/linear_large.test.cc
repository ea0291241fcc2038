// Linear layers over so many rows that their sum is cut, and over whole tiles of every size.
#include "cases.h"

namespace softmoe::testing {
namespace {

void check_weight_gradient(Kernels& kernels, DType dtype, std::int64_t rows, std::int64_t in,
                           std::int64_t out) {
  const Context context(std::string(name_of(dtype)) + " rows " + std::to_string(rows));
  Random random(11);
  const Values x = random.values(dtype, rows * in), dy = random.values(dtype, rows * out);
  const Values dw(DType::kFloat32, in * out), dbias(DType::kFloat32, out);
  LinearBackwardWeight args;
  args.x = x.buffer(), args.dy = dy.buffer(), args.dw = dw.buffer(), args.dbias = dbias.buffer();
  args.rows = rows, args.in = in, args.out = out;
  kernels.run(args);
  const std::vector<double> a = x.doubles(), b = dy.doubles();
  std::vector<double> wanted(static_cast<std::size_t>(in * out)), sums(static_cast<std::size_t>(out));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < out; ++o) {
      const double gradient = b[static_cast<std::size_t>(r * out + o)];
      sums[static_cast<std::size_t>(o)] += gradient;
      for (std::int64_t i = 0; i < in; ++i) {
        wanted[static_cast<std::size_t>(i * out + o)] += a[static_cast<std::size_t>(r * in + i)] * gradient;
      }
    }
  }
  CHECK_CLOSE(dw, wanted, 2e-5);
  CHECK_CLOSE(dbias, sums, 2e-5);
}

TEST(weight_gradients_over_thousands_of_rows_agree_with_loops) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (const std::int64_t rows : {2048, 2049, 4500}) check_weight_gradient(kernels, dtype, rows, 24, 40);
    }
  });
}

void check_forward(Kernels& kernels, DType dtype, std::int64_t rows) {
  const Context context(std::string(name_of(dtype)) + " rows " + std::to_string(rows));
  constexpr std::int64_t in = 192, out = 256;
  Random random(static_cast<std::uint32_t>(rows));
  const Values x = random.values(dtype, rows * in), w = random.values(dtype, in * out, 0.1);
  const Values y(DType::kFloat32, rows * out), dx(dtype, rows * in);
  LinearForward forward;
  forward.x = x.buffer(), forward.w = w.buffer(), forward.y = y.buffer();
  forward.rows = rows, forward.in = in, forward.out = out;
  kernels.run(forward);
  std::vector<double> wanted(static_cast<std::size_t>(rows * out));
  const std::vector<double> a = x.doubles(), b = w.doubles();
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < in; ++i) {
      for (std::int64_t o = 0; o < out; ++o) {
        wanted[static_cast<std::size_t>(r * out + o)] +=
            a[static_cast<std::size_t>(r * in + i)] * b[static_cast<std::size_t>(i * out + o)];
      }
    }
  }
  CHECK_CLOSE(y, wanted, 2e-5);

  // A row alone takes the smallest tile: the same bits.
  const Values alone(DType::kFloat32, out);
  forward.rows = 1;
  forward.x = part(x, (rows - 1) * in), forward.y = alone.buffer();
  kernels.run(forward);
  CHECK(std::memcmp(alone.buffer().data, part(y, (rows - 1) * out).data, static_cast<std::size_t>(out) * 4) ==
        0);
}

TEST(linear_layers_over_whole_tiles_agree_with_loops) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (const std::int64_t rows : {16, 32, 64, 128, 300}) check_forward(kernels, dtype, rows);
    }
  });
}

// The CPU's ways to a product differ in the rows, whether the depth is cut, and where rows of x lie to each
// other.
void check_rows_alone(Kernels& kernels, DType dtype, std::int64_t in, std::int64_t out) {
  constexpr std::int64_t kMostRows = 120;
  Random random(17);
  const Values x = random.values(dtype, kMostRows * in), w = random.values(dtype, in * out, 0.1);
  const Values alone(DType::kFloat32, kMostRows * out);
  LinearForward args;
  args.w = w.buffer(), args.in = in, args.out = out;
  const std::vector<double> a = x.doubles(), b = w.doubles();
  std::vector<double> wanted(static_cast<std::size_t>(kMostRows * out));
  for (std::int64_t r = 0; r < kMostRows; ++r) {
    args.rows = 1, args.x = part(x, r * in), args.y = part(alone, r * out);
    kernels.run(args);
    for (std::int64_t i = 0; i < in; ++i) {
      for (std::int64_t o = 0; o < out; ++o) {
        wanted[static_cast<std::size_t>(r * out + o)] +=
            a[static_cast<std::size_t>(r * in + i)] * b[static_cast<std::size_t>(i * out + o)];
      }
    }
  }
  CHECK_CLOSE(alone, wanted, 2e-5);
  for (const std::int64_t rows : {2, 6, 7, 8, 13, 14, 15, 29, 112, 120}) {
    const Context context(std::string(name_of(dtype)) + " rows " + std::to_string(rows) + " in " +
                          std::to_string(in) + " out " + std::to_string(out));
    const Values y(DType::kFloat32, rows * out);
    args.rows = rows, args.x = x.buffer(), args.y = y.buffer();
    kernels.run(args);
    CHECK(std::memcmp(y.buffer().data, alone.buffer().data, static_cast<std::size_t>(rows * out) * 4) == 0);
  }
}

TEST(large_products_give_rows_the_bits_they_have_alone) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      check_rows_alone(kernels, dtype, 386, 98);   // a last pair of tiles that is not whole
      check_rows_alone(kernels, dtype, 1024, 64);  // rows of x in the same cache sets
      check_rows_alone(kernels, dtype, 1537, 96);  // an odd depth
    }
  });
}

}  // namespace
}  // namespace softmoe::testing
