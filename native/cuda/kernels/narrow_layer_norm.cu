// Layer normalisation of short float32 rows, in float64 throughout: narrow models amplify the rounding of
// float32 statistics, and are too small for float64 to cost anything that matters. A block takes 64 rows by
// way of shared memory, so that each element is read once and by neighbours, then one thread a row; the
// formulas of normalization.cu. The backward makes the mean anew instead of trusting a rounded one.
#include "cuda/kernels/normalization_params.h"

namespace softmoe::cuda {

constexpr int kThreads = 64;
constexpr int kBlockRows = kThreads;
constexpr int kMostDim = 48;

// Rows of a block in shared memory; the odd pitch puts the rows' same elements into different banks.
struct Rows {
  static constexpr int kPitch = kMostDim + 1;
  float values[kBlockRows * kPitch];

  __device__ __forceinline__ float& at(int row, int i) { return values[row * kPitch + i]; }
  __device__ __forceinline__ void load(const float* x, int rows, int dim) {
    for (int i = threadIdx.x; i < rows * dim; i += kThreads) at(i / dim, i % dim) = x[i];
  }
  __device__ __forceinline__ void store(float* y, int rows, int dim) {
    for (int i = threadIdx.x; i < rows * dim; i += kThreads) y[i] = at(i / dim, i % dim);
  }
  __device__ __forceinline__ double mean(int row, int dim) {
    double sum = 0;
    for (int i = 0; i < dim; ++i) sum += at(row, i);
    return sum / static_cast<double>(dim);
  }
};

// The rows of this block.
struct Share {
  std::int64_t first;
  int rows, dim;
  __device__ __forceinline__ Share(std::int64_t all_rows, std::int64_t row_dim)
      : first(static_cast<std::int64_t>(blockIdx.x) * kBlockRows),
        rows(static_cast<int>(min(all_rows - first, static_cast<std::int64_t>(kBlockRows)))),
        dim(static_cast<int>(row_dim)) {}
};

// One value for each element of a row, `otherwise` where there are none.
__device__ __forceinline__ void load_parameters(float* shared, const AnyFloats& from, int dim,
                                                float otherwise) {
  const float* parameters = static_cast<const float*>(from.data);
  for (int i = threadIdx.x; i < dim; i += kThreads) shared[i] = parameters ? parameters[i] : otherwise;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_layer_norm(const __grid_constant__ LayerNormParams p) {
  __shared__ Rows rows;
  __shared__ float scale[kMostDim], bias[kMostDim];
  const Share share(p.rows, p.dim);
  const int row = threadIdx.x, dim = share.dim;
  rows.load(static_cast<const float*>(p.x.data) + share.first * dim, share.rows, dim);
  load_parameters(scale, p.scale, dim, 1);
  load_parameters(bias, p.bias, dim, 0);
  __syncthreads();
  if (row < share.rows) {
    const double mean = rows.mean(row, dim);
    double variance = 0;
    for (int i = 0; i < dim; ++i) variance += (rows.at(row, i) - mean) * (rows.at(row, i) - mean);
    const double rstd = 1 / sqrt(variance / static_cast<double>(dim) + p.eps);
    for (int i = 0; i < dim; ++i) {
      rows.at(row, i) = static_cast<float>((rows.at(row, i) - mean) * rstd * scale[i] + bias[i]);
    }
    if (p.mean) p.mean[share.first + row] = static_cast<float>(mean);
    if (p.rstd) p.rstd[share.first + row] = static_cast<float>(rstd);
  }
  __syncthreads();
  rows.store(static_cast<float*>(p.y.data) + share.first * dim, share.rows, dim);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_layer_norm_backward(const __grid_constant__ LayerNormBackwardParams p) {
  __shared__ Rows rows, gradients;
  __shared__ float scale[kMostDim];
  const Share share(p.rows, p.dim);
  const int row = threadIdx.x, dim = share.dim;
  rows.load(static_cast<const float*>(p.x.data) + share.first * dim, share.rows, dim);
  gradients.load(static_cast<const float*>(p.dy.data) + share.first * dim, share.rows, dim);
  load_parameters(scale, p.scale, dim, 1);
  __syncthreads();
  if (row < share.rows) {
    const double mean = rows.mean(row, dim), rstd = p.rstd[share.first + row];
    double sum = 0, product = 0;
    for (int i = 0; i < dim; ++i) {
      const double g = static_cast<double>(gradients.at(row, i)) * scale[i];
      sum += g;
      product += g * (rows.at(row, i) - mean) * rstd;
    }
    for (int i = 0; i < dim; ++i) {
      const double g = static_cast<double>(gradients.at(row, i)) * scale[i];
      gradients.at(row, i) =
          static_cast<float>(rstd * (g - sum / dim - (rows.at(row, i) - mean) * rstd * product / dim));
    }
  }
  __syncthreads();
  gradients.store(static_cast<float*>(p.dx.data) + share.first * dim, share.rows, dim);
}

// First a row a thread for its mean, then a column a thread.
extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_layer_norm_parameter_parts(const __grid_constant__ LayerNormParameterParts p) {
  __shared__ Rows rows, gradients;
  __shared__ double means[kBlockRows];
  __shared__ float rstds[kBlockRows];
  const Share share(p.rows, p.dim);
  const int row = threadIdx.x, dim = share.dim;
  rows.load(static_cast<const float*>(p.x.data) + share.first * dim, share.rows, dim);
  gradients.load(static_cast<const float*>(p.dy.data) + share.first * dim, share.rows, dim);
  __syncthreads();
  if (row < share.rows) {
    means[row] = rows.mean(row, dim);
    rstds[row] = p.rstd[share.first + row];
  }
  __syncthreads();
  double* part = static_cast<double*>(p.parts) + static_cast<std::int64_t>(blockIdx.x) * 2 * dim;
  for (int i = threadIdx.x; i < dim; i += kThreads) {
    double dscale = 0, dbias = 0;
    for (int r = 0; r < share.rows; ++r) {
      dscale += gradients.at(r, i) * ((rows.at(r, i) - means[r]) * rstds[r]);
      dbias += gradients.at(r, i);
    }
    part[i] = dscale;
    part[dim + i] = dbias;
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_layer_norm_parameter_sums(const __grid_constant__ LayerNormParameterSums p) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
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
