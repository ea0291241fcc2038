// Row normalisations and row softmax. A row is read two or three times, from the first cache but for the
// first time; statistics are float32 sums over the lanes of a vector, so a row's result does not depend on
// other rows.
//
// Parameter gradients (dscale, dbias) are sums over rows: blocks of kBlockRows rows in ascending order, then
// the blocks' sums in ascending order, whatever the number of threads.
#include <cstdint>

#include "cpu/kernels/cpu_kernels.h"
#include "cpu/narrow_layer_norm.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/vector_math.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

constexpr std::int64_t kBlockRows = 64;

inline float reciprocal_root(float value) { return 1.0f / __builtin_sqrtf(value); }

}  // namespace

void CpuKernels::run(const LayerNormForward& args) {
  if (is_narrow_row(args.x, args.y, args.dim)) return narrow_layer_norm(args, pool);
  const std::int64_t dim = args.dim;
  const float eps = static_cast<float>(args.eps), inverse_dim = 1.0f / static_cast<float>(dim);
  const float *scale = args.scale.as<float>(), *bias = args.bias.as<float>();
  with_float_types(args.x.dtype, args.y.dtype, [&](auto x_type, auto y_type) {
    for_rows(pool, args.rows, dim, [&](std::int64_t row, int) {
      const auto* x = args.x.as<const decltype(x_type)>() + row * dim;
      auto* y = args.y.as<decltype(y_type)>() + row * dim;
      // Mean.
      const float mean =
          inverse_dim * sum_of(dim, [&](std::int64_t i, std::int64_t n) { return load_some(x + i, n); });
      // Variance around it.
      const float variance = inverse_dim * sum_of(dim, [&](std::int64_t i, std::int64_t n) {
                               const Vec centred = keep_first(load_some(x + i, n) - mean, n, 0.0f);
                               return centred * centred;
                             });
      const float rstd = reciprocal_root(variance + eps);
      by_vectors(0, dim, [&](std::int64_t i, std::int64_t n) {
        Vec v = (load_some(x + i, n) - mean) * rstd;
        if (scale) v *= load_some(scale + i, n);
        if (bias) v += load_some(bias + i, n);
        store_some(y + i, v, n);
      });
      if (args.mean) args.mean.as<float>()[row] = mean;
      if (args.rstd) args.rstd.as<float>()[row] = rstd;
    });
  });
}

// With xhat = (x - mean) * rstd and g = dy * scale:
//   dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), dscale = sum over rows of dy * xhat, dbias = sum of
//   dy.
void CpuKernels::run(const LayerNormBackward& args) {
  if (is_narrow_row(args.x, args.dy, args.dim)) return narrow_layer_norm(args, pool);
  const std::int64_t dim = args.dim, rows = args.rows;
  const std::int64_t blocks = ceil_div(rows, kBlockRows);
  const float inverse_dim = 1.0f / static_cast<float>(dim);
  const float *scale = args.scale.as<float>(), *means = args.mean.as<float>(), *rstds = args.rstd.as<float>();
  const bool wants_parameters = args.dscale || args.dbias;
  Arena::Frame frame(scratch.stream());
  // [blocks][2][dim]: the blocks' sums of dy * xhat and of dy.
  float* partial = wants_parameters ? scratch.stream().take<float>(blocks * 2 * dim) : nullptr;
  with_float_types(args.x.dtype, args.dy.dtype, args.dx.dtype, [&](auto x_type, auto dy_type, auto dx_type) {
    for_rows(pool, blocks, kBlockRows * (dim), [&](std::int64_t block, int) {
      float* dscale = partial ? partial + block * 2 * dim : nullptr;
      float* dbias = partial ? dscale + dim : nullptr;
      const std::int64_t first = block * kBlockRows, last = smaller(rows, first + kBlockRows);
      for (std::int64_t row = first; row < last; ++row) {
        const auto* x = args.x.as<const decltype(x_type)>() + row * dim;
        const auto* dy = args.dy.as<const decltype(dy_type)>() + row * dim;
        const float mean = means[row], rstd = rstds[row];
        Vec sum{}, product{};
        by_vectors(0, dim, [&](std::int64_t i, std::int64_t n) {
          const Vec d = load_some(dy + i, n);
          const Vec xhat = (load_some(x + i, n) - mean) * rstd;
          const Vec g = scale ? d * load_some(scale + i, n) : d;
          sum += g;
          product += g * xhat;
          if (partial) {
            const bool is_first = row == first;
            store_some(dscale + i, is_first ? d * xhat : load_some(dscale + i, n) + d * xhat, n);
            store_some(dbias + i, is_first ? d : load_some(dbias + i, n) + d, n);
          }
        });
        if (!args.dx) continue;
        auto* dx = args.dx.as<decltype(dx_type)>() + row * dim;
        const float mean_g = inverse_dim * sum_lanes(sum), mean_product = inverse_dim * sum_lanes(product);
        by_vectors(0, dim, [&](std::int64_t i, std::int64_t n) {
          const Vec d = load_some(dy + i, n);
          const Vec xhat = (load_some(x + i, n) - mean) * rstd;
          const Vec g = scale ? d * load_some(scale + i, n) : d;
          store_some(dx + i, rstd * (g - mean_g - xhat * mean_product), n);
        });
      }
    });
  });
  if (!wants_parameters) return;

  const auto add_blocks = [&](const Buffer& target, std::int64_t offset) {
    if (!target) return;
    for_rows(pool, ceil_div(dim, kLanes), kLanes * blocks, [&](std::int64_t strip, int) {
      const std::int64_t i = strip * kLanes, n = smaller<std::int64_t>(kLanes, dim - i);
      const float* first = partial + offset + i;
      Vec sum{};
      for (std::int64_t block = 0; block < blocks; ++block) sum += load_some(first + block * 2 * dim, n);
      store_some(target.as<float>() + i, sum, n);
    });
  };
  add_blocks(args.dscale, 0);
  add_blocks(args.dbias, dim);
}

void CpuKernels::run(const L2NormalizeForward& args) {
  const std::int64_t dim = args.dim;
  const float eps = static_cast<float>(args.eps);
  with_float_types(args.x.dtype, args.y.dtype, [&](auto x_type, auto y_type) {
    for_rows(pool, args.rows, dim, [&](std::int64_t row, int) {
      const auto* x = args.x.as<const decltype(x_type)>() + row * dim;
      auto* y = args.y.as<decltype(y_type)>() + row * dim;
      const float squares = sum_of(dim, [&](std::int64_t i, std::int64_t n) {
        const Vec v = load_some(x + i, n);
        return v * v;
      });
      const float inverse_norm = reciprocal_root(squares + eps);
      by_vectors(0, dim, [&](std::int64_t i, std::int64_t n) {
        store_some(y + i, load_some(x + i, n) * inverse_norm, n);
      });
      if (args.inverse_norm) args.inverse_norm.as<float>()[row] = inverse_norm;
    });
  });
}

// dx = r (dy - xhat (xhat . dy)) with r = inverse_norm and xhat = r x: exact with eps inside the root.
void CpuKernels::run(const L2NormalizeBackward& args) {
  const std::int64_t dim = args.dim;
  with_float_types(args.x.dtype, args.dy.dtype, args.dx.dtype, [&](auto x_type, auto dy_type, auto dx_type) {
    for_rows(pool, args.rows, dim, [&](std::int64_t row, int) {
      const auto* x = args.x.as<const decltype(x_type)>() + row * dim;
      const auto* dy = args.dy.as<const decltype(dy_type)>() + row * dim;
      auto* dx = args.dx.as<decltype(dx_type)>() + row * dim;
      const float r = args.inverse_norm.as<float>()[row];
      const float along = r * sum_of(dim, [&](std::int64_t i, std::int64_t n) {
                            return load_some(x + i, n) * load_some(dy + i, n);
                          });
      by_vectors(0, dim, [&](std::int64_t i, std::int64_t n) {
        store_some(dx + i, r * (load_some(dy + i, n) - (r * along) * load_some(x + i, n)), n);
      });
    });
  });
}

void CpuKernels::run(const SoftmaxForward& args) {
  const std::int64_t columns = args.columns;
  const float infinity = __builtin_inff();
  with_float_types(args.x.dtype, args.y.dtype, [&](auto x_type, auto y_type) {
    for_rows(pool, args.rows, 4 * columns, [&](std::int64_t row, int worker) {
      Arena::Frame frame(scratch.worker(worker));
      float* weights = scratch.worker(worker).take<float>(columns);
      const auto* x = args.x.as<const decltype(x_type)>() + row * columns;
      auto* y = args.y.as<decltype(y_type)>() + row * columns;
      // Largest. A NaN on the left of max is passed over.
      Vec largest = splat(-infinity);
      by_vectors(0, columns, [&](std::int64_t i, std::int64_t n) {
        largest = max(keep_first(load_some(x + i, n), n, -infinity), largest);
      });
      const float top = max_lanes(largest);
      float total = 0, factor = 0;
      if (top != -infinity) {
        total = sum_of(columns, [&](std::int64_t i, std::int64_t n) {
          const Vec v = load_some(x + i, n);
          const Vec weight = keep_first(v == v ? exp(v - top) : splat(0.0f), n, 0.0f);
          store_some(weights + i, weight, n);
          return weight;
        });
        factor = 1.0f / total;
      } else {
        by_vectors(0, columns,
                   [&](std::int64_t i, std::int64_t n) { store_some(weights + i, splat(0.0f), n); });
      }
      by_vectors(0, columns, [&](std::int64_t i, std::int64_t n) {
        store_some(y + i, load_some(weights + i, n) * factor, n);
      });
      if (args.log_sum_exp) {
        args.log_sum_exp.as<float>()[row] = top == -infinity ? -infinity : top + log(splat(total))[0];
      }
    });
  });
}

void CpuKernels::run(const SoftmaxBackward& args) {
  const std::int64_t columns = args.columns;
  with_float_types(args.y.dtype, args.dy.dtype, args.dx.dtype, [&](auto y_type, auto dy_type, auto dx_type) {
    for_rows(pool, args.rows, columns, [&](std::int64_t row, int) {
      const auto* y = args.y.as<const decltype(y_type)>() + row * columns;
      const auto* dy = args.dy.as<const decltype(dy_type)>() + row * columns;
      auto* dx = args.dx.as<decltype(dx_type)>() + row * columns;
      const float inner = sum_of(columns, [&](std::int64_t i, std::int64_t n) {
        return load_some(y + i, n) * load_some(dy + i, n);
      });
      by_vectors(0, columns, [&](std::int64_t i, std::int64_t n) {
        store_some(dx + i, load_some(y + i, n) * (load_some(dy + i, n) - inner), n);
      });
    });
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
