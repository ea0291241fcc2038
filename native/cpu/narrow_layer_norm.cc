// The formulas of kernels/normalization.cc. The backward makes the mean anew
// instead of trusting a rounded one.
#include "cpu/narrow_layer_norm.h"

#include <array>
#include <cmath>
#include <vector>

namespace softmoe::cpu {

namespace {

struct Statistics {
  double mean = 0, rstd = 0;
};

Statistics statistics(const float* x, std::int64_t dim, double eps) {
  double mean = 0, variance = 0;
  for (std::int64_t i = 0; i < dim; ++i) mean += x[i];
  mean /= static_cast<double>(dim);
  for (std::int64_t i = 0; i < dim; ++i) variance += (x[i] - mean) * (x[i] - mean);
  variance /= static_cast<double>(dim);
  return {mean, 1 / std::sqrt(variance + eps)};
}

constexpr std::int64_t kRowsOfTask = 64;

}  // namespace

void narrow_layer_norm(const LayerNormForward& args, ThreadPool& pool) {
  const float *scale = args.scale.as<const float>(), *bias = args.bias.as<const float>();
  pool.parallel_for(args.rows, kRowsOfTask, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* x = args.x.as<const float>() + row * args.dim;
      float* y = args.y.as<float>() + row * args.dim;
      const Statistics s = statistics(x, args.dim, args.eps);
      for (std::int64_t i = 0; i < args.dim; ++i) {
        const double xhat = (x[i] - s.mean) * s.rstd;
        y[i] = static_cast<float>(xhat * (scale ? scale[i] : 1) + (bias ? bias[i] : 0));
      }
      if (args.mean) args.mean.as<float>()[row] = static_cast<float>(s.mean);
      if (args.rstd) args.rstd.as<float>()[row] = static_cast<float>(s.rstd);
    }
  });
}

void narrow_layer_norm(const LayerNormBackward& args, ThreadPool& pool) {
  const std::int64_t dim = args.dim, tasks = (args.rows + kRowsOfTask - 1) / kRowsOfTask;
  const float* scale = args.scale.as<const float>();
  // [tasks][2][dim]: sums of dy * xhat and of dy, added up task by task below.
  std::vector<double> sums(static_cast<std::size_t>(tasks * 2 * dim));
  pool.parallel_for(args.rows, kRowsOfTask, [&](std::int64_t begin, std::int64_t end, int) {
    double* scale_sum = sums.data() + begin / kRowsOfTask * 2 * dim;
    double* bias_sum = scale_sum + dim;
    std::array<double, kNarrowRow> xhat;
    for (std::int64_t row = begin; row < end; ++row) {
      const float* x = args.x.as<const float>() + row * dim;
      const float* dy = args.dy.as<const float>() + row * dim;
      double mean = 0;
      for (std::int64_t i = 0; i < dim; ++i) mean += x[i];
      mean /= static_cast<double>(dim);
      const double rstd = args.rstd.as<const float>()[row];
      double gradient_mean = 0, product_mean = 0;
      for (std::int64_t i = 0; i < dim; ++i) {
        xhat[static_cast<std::size_t>(i)] = (x[i] - mean) * rstd;
        const double g = static_cast<double>(dy[i]) * (scale ? scale[i] : 1);
        gradient_mean += g;
        product_mean += g * xhat[static_cast<std::size_t>(i)];
        scale_sum[i] += dy[i] * xhat[static_cast<std::size_t>(i)];
        bias_sum[i] += dy[i];
      }
      if (!args.dx) continue;
      float* dx = args.dx.as<float>() + row * dim;
      for (std::int64_t i = 0; i < dim; ++i) {
        const double g = static_cast<double>(dy[i]) * (scale ? scale[i] : 1);
        dx[i] = static_cast<float>(
            rstd * (g - gradient_mean / static_cast<double>(dim) -
                    xhat[static_cast<std::size_t>(i)] * product_mean / static_cast<double>(dim)));
      }
    }
  });
  const auto add_tasks = [&](const Buffer& target, std::int64_t offset) {
    if (!target) return;
    for (std::int64_t i = 0; i < dim; ++i) {
      double sum = 0;
      for (std::int64_t task = 0; task < tasks; ++task)
        sum += sums[static_cast<std::size_t>(task * 2 * dim + offset + i)];
      target.as<float>()[i] = static_cast<float>(sum);
    }
  };
  add_tasks(args.dscale, 0);
  add_tasks(args.dbias, dim);
}

}  // namespace softmoe::cpu
