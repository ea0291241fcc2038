// Layer normalisation of short float32 rows, in float64 throughout: narrow models amplify the rounding of
// float32 statistics, and are too small for float64 to cost anything that matters. One thread a row; the
// formulas of normalization.cu. The backward makes the mean anew instead of trusting a rounded one.
#include "cuda/kernels/normalization_params.h"

namespace softmoe::cuda {

constexpr int kThreads = 128;
constexpr int kBlockRows = 64;

__device__ __forceinline__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

__device__ __forceinline__ double mean_of(const float* x, std::int64_t dim) {
  double sum = 0;
  for (std::int64_t i = 0; i < dim; ++i) sum += x[i];
  return sum / static_cast<double>(dim);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_layer_norm(const __grid_constant__ LayerNormParams p) {
  const std::int64_t row = thread_index();
  if (row >= p.rows) return;
  const float* x = static_cast<const float*>(p.x.data) + row * p.dim;
  const float* scale = static_cast<const float*>(p.scale.data);
  const float* bias = static_cast<const float*>(p.bias.data);
  const double mean = mean_of(x, p.dim);
  double variance = 0;
  for (std::int64_t i = 0; i < p.dim; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const double rstd = 1 / sqrt(variance / static_cast<double>(p.dim) + p.eps);
  float* y = static_cast<float*>(p.y.data) + row * p.dim;
  for (std::int64_t i = 0; i < p.dim; ++i) {
    y[i] = static_cast<float>((x[i] - mean) * rstd * (scale ? scale[i] : 1) + (bias ? bias[i] : 0));
  }
  if (p.mean) p.mean[row] = static_cast<float>(mean);
  if (p.rstd) p.rstd[row] = static_cast<float>(rstd);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_layer_norm_backward(const __grid_constant__ LayerNormBackwardParams p) {
  const std::int64_t row = thread_index();
  if (row >= p.rows) return;
  const float* x = static_cast<const float*>(p.x.data) + row * p.dim;
  const float* dy = static_cast<const float*>(p.dy.data) + row * p.dim;
  const float* scale = static_cast<const float*>(p.scale.data);
  const double mean = mean_of(x, p.dim), rstd = p.rstd[row];
  double sum = 0, product = 0;
  for (std::int64_t i = 0; i < p.dim; ++i) {
    const double g = static_cast<double>(dy[i]) * (scale ? scale[i] : 1);
    sum += g;
    product += g * (x[i] - mean) * rstd;
  }
  const double dim = static_cast<double>(p.dim);
  float* dx = static_cast<float*>(p.dx.data) + row * p.dim;
  for (std::int64_t i = 0; i < p.dim; ++i) {
    const double g = static_cast<double>(dy[i]) * (scale ? scale[i] : 1);
    dx[i] = static_cast<float>(rstd * (g - sum / dim - (x[i] - mean) * rstd * product / dim));
  }
}

// A block of threads takes a block of rows: first a mean a thread, then a column a thread.
extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_layer_norm_parameter_parts(const __grid_constant__ LayerNormParameterParts p) {
  __shared__ double means[kBlockRows];
  const float* x = static_cast<const float*>(p.x.data);
  const float* dy = static_cast<const float*>(p.dy.data);
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kBlockRows;
  const std::int64_t end = min(begin + kBlockRows, p.rows);
  if (threadIdx.x < end - begin) means[threadIdx.x] = mean_of(x + (begin + threadIdx.x) * p.dim, p.dim);
  __syncthreads();
  double* part = static_cast<double*>(p.parts) + static_cast<std::int64_t>(blockIdx.x) * 2 * p.dim;
  for (std::int64_t i = threadIdx.x; i < p.dim; i += kThreads) {
    double dscale = 0, dbias = 0;
    for (std::int64_t row = begin; row < end; ++row) {
      dscale += dy[row * p.dim + i] * ((x[row * p.dim + i] - means[row - begin]) * p.rstd[row]);
      dbias += dy[row * p.dim + i];
    }
    part[i] = dscale;
    part[p.dim + i] = dbias;
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_layer_norm_parameter_sums(const __grid_constant__ LayerNormParameterSums p) {
  const std::int64_t index = thread_index();
  if (index >= 2 * p.dim) return;
  double sum = 0;
  for (std::int64_t block = 0; block < p.blocks; ++block) {
    sum += static_cast<const double*>(p.parts)[block * 2 * p.dim + index];
  }
  if (index < p.dim) {
    if (p.dscale) p.dscale[index] = static_cast<float>(sum);
  } else if (p.dbias) {
    p.dbias[index - p.dim] = static_cast<float>(sum);
  }
}

}  // namespace softmoe::cuda
