#include "core/kernels/normalization.h"

#include "cpu/thread_pool.h"
#include "testing.h"

namespace softmoe::testing {
namespace {

constexpr DType kF32 = DType::kFloat32, kBF16 = DType::kBFloat16;
double tolerance(DType dtype) { return dtype == kBF16 ? 4e-3 : 2e-6; }

struct Extents {
  std::int64_t rows, dim;
};
const std::vector<Extents> kExtents = {{1, 1},    {3, 7},    {130, 64}, {200, 100},
                                       {65, 385}, {9, 1111}, {2, 8403}};

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

TEST(layer_norm_and_its_gradients_agree_with_double) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const auto& [rows, dim] : kExtents) {
      for (const DType dtype : {kF32, kBF16}) {
        for (const bool has_parameters : {true, false}) {
          const Context context(std::to_string(rows) + " x " + std::to_string(dim));
          std::vector<double> numbers = normals(rows * dim, 1);
          for (double& number : numbers) number += 3;
          const Values x(dtype, numbers), dy(dtype, normals(rows * dim, 2));
          const Values scale(kF32, normals(dim, 3)), bias(kF32, normals(dim, 4));
          Values y(dtype, rows * dim), dx(dtype, rows * dim), mean(kF32, rows), rstd(kF32, rows);
          Values dscale(kF32, dim), dbias(kF32, dim);
          const double eps = 1e-3;
          std::vector<double> want_y(at(rows * dim)), want_dx(at(rows * dim)), want_dscale(at(dim)),
              want_dbias(at(dim));
          for (std::int64_t r = 0; r < rows; ++r) {
            double m = 0, variance = 0;
            for (std::int64_t i = 0; i < dim; ++i) m += x[r * dim + i] / static_cast<double>(dim);
            for (std::int64_t i = 0; i < dim; ++i)
              variance += std::pow(x[r * dim + i] - m, 2) / static_cast<double>(dim);
            const double inverse = 1 / std::sqrt(variance + eps);
            double mean_g = 0, mean_product = 0;
            for (std::int64_t i = 0; i < dim; ++i) {
              const double xhat = (x[r * dim + i] - m) * inverse,
                           g = dy[r * dim + i] * (has_parameters ? scale[i] : 1);
              want_y[at(r * dim + i)] = has_parameters ? xhat * scale[i] + bias[i] : xhat;
              mean_g += g / static_cast<double>(dim);
              mean_product += g * xhat / static_cast<double>(dim);
              want_dscale[at(i)] += dy[r * dim + i] * xhat;
              want_dbias[at(i)] += dy[r * dim + i];
            }
            for (std::int64_t i = 0; i < dim; ++i) {
              const double xhat = (x[r * dim + i] - m) * inverse,
                           g = dy[r * dim + i] * (has_parameters ? scale[i] : 1);
              want_dx[at(r * dim + i)] = inverse * (g - mean_g - xhat * mean_product);
            }
          }
          const Buffer none;
          kernels.run(LayerNormForward{x.buffer(), has_parameters ? scale.buffer() : none,
                                       has_parameters ? bias.buffer() : none, y.buffer(), mean.buffer(),
                                       rstd.buffer(), rows, dim, eps});
          CHECK_CLOSE(y, want_y, tolerance(dtype));
          kernels.run(LayerNormBackward{x.buffer(), has_parameters ? scale.buffer() : none, mean.buffer(),
                                        rstd.buffer(), dy.buffer(), dx.buffer(),
                                        has_parameters ? dscale.buffer() : none,
                                        has_parameters ? dbias.buffer() : none, rows, dim});
          if (dim > 1) CHECK_CLOSE(dx, want_dx, tolerance(dtype));
          if (has_parameters) {
            CHECK_CLOSE(dscale, want_dscale, dim > 1 ? 4e-6 : 1e30);
            CHECK_CLOSE(dbias, want_dbias, 4e-6);
          }
        }
      }
    }
  });
}

TEST(layer_norm_gradients_have_the_same_bits_for_any_number_of_threads) {
  cpu::ThreadPool& pool = cpu::ThreadPool::instance();
  const int before = pool.threads();
  for_each_instruction_set([&](Kernels& kernels) {
    const std::int64_t rows = 3000, dim = 96;
    const Values x(kF32, normals(rows * dim, 5)), dy(kF32, normals(rows * dim, 6)),
        scale(kF32, normals(dim, 7));
    Values y(kF32, rows * dim), mean(kF32, rows), rstd(kF32, rows);
    kernels.run(LayerNormForward{
        x.buffer(), scale.buffer(), {}, y.buffer(), mean.buffer(), rstd.buffer(), rows, dim, 1e-6});
    std::vector<Values> results;
    for (const int threads : {1, 3, 4}) {
      pool.set_threads(threads);
      Values dx(kF32, rows * dim), dscale(kF32, dim), dbias(kF32, dim);
      kernels.run(LayerNormBackward{x.buffer(), scale.buffer(), mean.buffer(), rstd.buffer(), dy.buffer(),
                                    dx.buffer(), dscale.buffer(), dbias.buffer(), rows, dim});
      for (const Values& values : {dx, dscale, dbias}) results.push_back(values);
    }
    pool.set_threads(before);
    for (std::size_t i = 3; i < results.size(); ++i) CHECK(results[i].same_bits(results[i % 3]));
  });
}

TEST(l2_normalize_and_its_gradient_agree_with_double) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const auto& [rows, dim] : kExtents) {
      for (const DType dtype : {kF32, kBF16}) {
        const double eps = 1e-2;
        const Values x(dtype, normals(rows * dim, 8)), dy(dtype, normals(rows * dim, 9));
        Values y(dtype, rows * dim), dx(dtype, rows * dim), inverse_norm(kF32, rows);
        std::vector<double> want_y(at(rows * dim)), want_dx(at(rows * dim)), want_norm(at(rows));
        for (std::int64_t r = 0; r < rows; ++r) {
          double squares = 0, along = 0;
          for (std::int64_t i = 0; i < dim; ++i) {
            squares += x[r * dim + i] * x[r * dim + i];
            along += x[r * dim + i] * dy[r * dim + i];
          }
          const double inverse = 1 / std::sqrt(squares + eps);
          want_norm[at(r)] = inverse;
          for (std::int64_t i = 0; i < dim; ++i) {
            want_y[at(r * dim + i)] = x[r * dim + i] * inverse;
            want_dx[at(r * dim + i)] =
                dy[r * dim + i] * inverse - x[r * dim + i] * along * inverse * inverse * inverse;
          }
        }
        kernels.run(L2NormalizeForward{x.buffer(), y.buffer(), inverse_norm.buffer(), rows, dim, eps});
        CHECK_CLOSE(y, want_y, tolerance(dtype));
        CHECK_CLOSE(inverse_norm, want_norm, 1e-6);
        kernels.run(
            L2NormalizeBackward{x.buffer(), inverse_norm.buffer(), dy.buffer(), dx.buffer(), rows, dim});
        CHECK_CLOSE(dx, want_dx, dim == 1 ? 4e-3 : tolerance(dtype));
      }
    }
  });
}

TEST(softmax_and_its_gradient_agree_with_double) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const auto& [rows, columns] : kExtents) {
      for (const DType dtype : {kF32, kBF16}) {
        const Values x(dtype, normals(rows * columns, 10, 3)), dy(dtype, normals(rows * columns, 11));
        Values y(dtype, rows * columns), dx(dtype, rows * columns), log_sum_exp(kF32, rows);
        std::vector<double> want_y(at(rows * columns)), want_lse(at(rows)), want_dx(at(rows * columns));
        for (std::int64_t r = 0; r < rows; ++r) {
          double total = 0;
          for (std::int64_t i = 0; i < columns; ++i) total += std::exp(x[r * columns + i]);
          want_lse[at(r)] = std::log(total);
          for (std::int64_t i = 0; i < columns; ++i)
            want_y[at(r * columns + i)] = std::exp(x[r * columns + i]) / total;
        }
        kernels.run(SoftmaxForward{x.buffer(), y.buffer(), log_sum_exp.buffer(), rows, columns});
        CHECK_CLOSE(y, want_y, tolerance(dtype));
        CHECK_CLOSE(log_sum_exp, want_lse, 1e-6);
        for (std::int64_t r = 0; r < rows; ++r) {
          double inner = 0;
          for (std::int64_t i = 0; i < columns; ++i) inner += y[r * columns + i] * dy[r * columns + i];
          for (std::int64_t i = 0; i < columns; ++i)
            want_dx[at(r * columns + i)] = y[r * columns + i] * (dy[r * columns + i] - inner);
        }
        kernels.run(SoftmaxBackward{y.buffer(), dy.buffer(), dx.buffer(), rows, columns});
        CHECK_CLOSE(dx, want_dx, columns == 1 ? 1e30 : tolerance(dtype));
      }
    }
  });
}

TEST(softmax_takes_nan_as_minus_infinity_and_large_logits_without_overflow) {
  for_each_instruction_set([](Kernels& kernels) {
    const Values x(kF32, {NAN, 1, NAN, 1, -INFINITY, NAN, -INFINITY, NAN, 3e38, -3e38, 3e38, NAN});
    Values y(kF32, 12), log_sum_exp(kF32, 3);
    kernels.run(SoftmaxForward{x.buffer(), y.buffer(), log_sum_exp.buffer(), 3, 4});
    CHECK_CLOSE(y, (std::vector<double>{0, 0.5, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0.5, 0}), 1e-7);
    CHECK_CLOSE(log_sum_exp, (std::vector<double>{1 + std::log(2.0), -INFINITY, 3e38}), 1e-6);
  });
}

TEST(a_rows_softmax_and_norm_do_not_depend_on_the_other_rows) {
  for_each_instruction_set([](Kernels& kernels) {
    const std::int64_t rows = 700, dim = 100;
    const Values x(kF32, normals(rows * dim, 12));
    Values all(kF32, rows * dim), all_norm(kF32, rows * dim), one(kF32, dim), one_norm(kF32, dim);
    kernels.run(SoftmaxForward{x.buffer(), all.buffer(), {}, rows, dim});
    kernels.run(LayerNormForward{x.buffer(), {}, {}, all_norm.buffer(), {}, {}, rows, dim, 1e-6});
    for (const std::int64_t row : {std::int64_t{0}, std::int64_t{333}, rows - 1}) {
      const Buffer single{x.buffer().as<float>() + row * dim, kF32};
      kernels.run(SoftmaxForward{single, one.buffer(), {}, 1, dim});
      kernels.run(LayerNormForward{single, {}, {}, one_norm.buffer(), {}, {}, 1, dim, 1e-6});
      for (std::int64_t i = 0; i < dim; ++i) {
        CHECK(one[i] == all[row * dim + i]);
        CHECK(one_norm[i] == all_norm[row * dim + i]);
      }
    }
  });
}

}  // namespace
}  // namespace softmoe::testing
