// Row normalisations and row softmax, a team of threads a row, which it keeps in registers: each element is
// read once (row_team.cuh tells of longer rows). Statistics are float32.
//
// Parameter gradients (dscale, dbias) are sums over rows: blocks of kBlockRows rows in ascending order, then
// the blocks' sums in ascending order, which costs one more pass over x and dy.
#include "cuda/kernels/normalization_params.h"
#include "cuda/kernels/row_team.cuh"

namespace softmoe::cuda {

constexpr int kBlockRows = 64;

template <class Team>
__device__ __forceinline__ void layer_norm(const LayerNormParams& p) {
  const std::int64_t row = Team::row(), first = row * p.dim;
  if (row >= p.rows) return;
  const float dim = static_cast<float>(p.dim);
  const auto load_x = [&](std::int64_t i, int n) { return load4(p.x, first + i, n); };
  const auto kept = Team::keep(p.dim, load_x);
  const float mean = kept.sum_of([](float4 x) { return x; }) / dim;
  // Variance around it.
  const float squares =
      kept.sum_of([&](float4 x) { return map4(x, [&](float v) { return (v - mean) * (v - mean); }); });
  const float rstd = 1.0f / sqrtf(squares / dim + static_cast<float>(p.eps));
  kept.for_fours([&](std::int64_t i, int n, float4 four) {
    float4 v = map4(four, [&](float x) { return (x - mean) * rstd; });
    if (p.scale.data) v = map4(v, load4(p.scale, i, n), [](float x, float scale) { return x * scale; });
    if (p.bias.data) v = map4(v, load4(p.bias, i, n), [](float x, float bias) { return x + bias; });
    store4(p.y, first + i, v, n);
  });
  if (Team::rank() != 0) return;
  if (p.mean) p.mean[row] = mean;
  if (p.rstd) p.rstd[row] = rstd;
}
SOFTMOE_ROW_KERNELS(layer_norm, LayerNormParams, layer_norm)

// With xhat = (x - mean) * rstd and g = dy * scale: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)).
template <class Team>
__device__ __forceinline__ void layer_norm_backward(const LayerNormBackwardParams& p) {
  const std::int64_t row = Team::row(), first = row * p.dim;
  if (row >= p.rows) return;
  const float mean = p.mean[row], rstd = p.rstd[row];
  const float inverse_dim = __fdividef(1.0f, static_cast<float>(p.dim));
  const auto load_both = [&](std::int64_t i, int n) -> TwoFours {
    const float4 xhat = map4(load4(p.x, first + i, n), [&](float v) { return (v - mean) * rstd; });
    float4 g = load4(p.dy, first + i, n);
    if (p.scale.data) g = map4(g, load4(p.scale, i, n), [](float d, float scale) { return d * scale; });
    return {g, xhat};
  };
  const auto kept = Team::keep(p.dim, load_both);
  const float mean_g = inverse_dim * kept.sum_of([](const TwoFours& both) { return both.a; });
  const float mean_product = inverse_dim * kept.sum_of([](const TwoFours& both) {
    return map4(both.a, both.b, [](float g, float xhat) { return g * xhat; });
  });
  kept.for_fours([&](std::int64_t i, int n, const TwoFours& both) {
    store4(
        p.dx, first + i,
        map4(both.a, both.b, [&](float g, float xhat) { return rstd * (g - mean_g - xhat * mean_product); }),
        n);
  });
}
SOFTMOE_ROW_KERNELS(layer_norm_backward, LayerNormBackwardParams, layer_norm_backward)

// One thread a column and block of rows.
extern "C" __global__ void __launch_bounds__(kRowThreads)
    layer_norm_parameter_parts(const __grid_constant__ LayerNormParameterParts p) {
  __shared__ float means[kBlockRows], rstds[kBlockRows];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kBlockRows;
  const int rows = static_cast<int>(min(p.rows - begin, static_cast<std::int64_t>(kBlockRows)));
  if (threadIdx.x < rows) {
    means[threadIdx.x] = p.mean[begin + threadIdx.x];
    rstds[threadIdx.x] = p.rstd[begin + threadIdx.x];
  }
  __syncthreads();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.y) * kRowThreads + threadIdx.x;
  if (i >= p.dim) return;
  float dscale = 0, dbias = 0;
#pragma unroll 4
  for (int r = 0; r < rows; ++r) {
    const std::int64_t at = (begin + r) * p.dim + i;
    const float dy = load(p.dy, at);
    dscale += dy * ((load(p.x, at) - means[r]) * rstds[r]);
    dbias += dy;
  }
  float* part = static_cast<float*>(p.parts) + static_cast<std::int64_t>(blockIdx.x) * 2 * p.dim;
  part[i] = dscale;
  part[p.dim + i] = dbias;
}

extern "C" __global__ void __launch_bounds__(kRowThreads)
    layer_norm_parameter_sums(const __grid_constant__ LayerNormParameterSums p) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (index >= 2 * p.dim) return;
  float sum = 0;
#pragma unroll 8
  for (std::int64_t block = 0; block < p.blocks; ++block) {
    sum += static_cast<const float*>(p.parts)[block * 2 * p.dim + index];
  }
  if (index < p.dim) {
    if (p.dscale) p.dscale[index] = sum;
  } else if (p.dbias) {
    p.dbias[index - p.dim] = sum;
  }
}

template <class Team>
__device__ __forceinline__ void l2_normalize(const L2NormalizeParams& p) {
  const std::int64_t row = Team::row(), first = row * p.dim;
  if (row >= p.rows) return;
  const auto load_x = [&](std::int64_t i, int n) { return load4(p.x, first + i, n); };
  const auto kept = Team::keep(p.dim, load_x);
  const float squares = kept.sum_of([](float4 x) { return map4(x, [](float v) { return v * v; }); });
  const float inverse_norm = 1.0f / sqrtf(squares + p.eps);
  kept.for_fours([&](std::int64_t i, int n, float4 x) {
    store4(p.y, first + i, map4(x, [&](float v) { return v * inverse_norm; }), n);
  });
  if (p.inverse_norm && Team::rank() == 0) p.inverse_norm[row] = inverse_norm;
}
SOFTMOE_ROW_KERNELS(l2_normalize, L2NormalizeParams, l2_normalize)

// dx = r (dy - xhat (xhat . dy)) with r = inverse_norm and xhat = r x: exact with eps inside the root.
template <class Team>
__device__ __forceinline__ void l2_normalize_backward(const L2NormalizeBackwardParams& p) {
  const std::int64_t row = Team::row(), first = row * p.dim;
  if (row >= p.rows) return;
  const float r = p.inverse_norm[row];
  const auto load_both = [&](std::int64_t i, int n) -> TwoFours {
    return {load4(p.x, first + i, n), load4(p.dy, first + i, n)};
  };
  const auto kept = Team::keep(p.dim, load_both);
  const float along = r * kept.sum_of([](const TwoFours& both) {
    return map4(both.a, both.b, [](float x, float dy) { return x * dy; });
  });
  kept.for_fours([&](std::int64_t i, int n, const TwoFours& both) {
    store4(p.dx, first + i,
           map4(both.a, both.b, [&](float x, float dy) { return r * (dy - (r * along) * x); }), n);
  });
}
SOFTMOE_ROW_KERNELS(l2_normalize_backward, L2NormalizeBackwardParams, l2_normalize_backward)

template <class Team>
__device__ __forceinline__ void softmax(const SoftmaxParams& p) {
  const std::int64_t row = Team::row(), first = row * p.columns;
  if (row >= p.rows) return;
  const auto load_x = [&](std::int64_t i, int n) { return load4(p.x, first + i, n); };
  const auto kept = Team::keep(p.columns, load_x);
  const float top = kept.largest();
  const auto weight = [&](float v) { return top == -INFINITY || isnan(v) ? 0.0f : expf(v - top); };
  const float total = kept.sum_of([&](float4 x) { return map4(x, weight); });
  const float factor = total > 0 ? 1.0f / total : 0.0f;
  kept.for_fours([&](std::int64_t i, int n, float4 x) {
    store4(p.y, first + i, map4(x, [&](float v) { return weight(v) * factor; }), n);
  });
  if (p.log_sum_exp && Team::rank() == 0) {
    p.log_sum_exp[row] = top == -INFINITY ? -INFINITY : top + logf(total);
  }
}
SOFTMOE_ROW_KERNELS(softmax, SoftmaxParams, softmax)

template <class Team>
__device__ __forceinline__ void softmax_backward(const SoftmaxBackwardParams& p) {
  const std::int64_t row = Team::row(), first = row * p.columns;
  if (row >= p.rows) return;
  const auto load_both = [&](std::int64_t i, int n) -> TwoFours {
    return {load4(p.y, first + i, n), load4(p.dy, first + i, n)};
  };
  const auto kept = Team::keep(p.columns, load_both);
  const float inner = kept.sum_of(
      [](const TwoFours& both) { return map4(both.a, both.b, [](float y, float dy) { return y * dy; }); });
  kept.for_fours([&](std::int64_t i, int n, const TwoFours& both) {
    store4(p.dx, first + i, map4(both.a, both.b, [&](float y, float dy) { return y * (dy - inner); }), n);
  });
}
SOFTMOE_ROW_KERNELS(softmax_backward, SoftmaxBackwardParams, softmax_backward)

}  // namespace softmoe::cuda
