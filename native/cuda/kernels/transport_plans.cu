// Entropic transport plans by Sinkhorn steps in the log domain, and their implicit gradient. One block a
// group.
//
//   f = 0; repeat g_e = ln(S/E) - lse_s(L + f), f_s = -lse_e(L + g); plan = exp(L + f + g)
//
// Columns: 32 experts side by side, 32 threads each; rows: a warp a token. Two exponentials an element and
// iteration; the logits stay in the caches.
#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/soft_weights.cuh"
#include "cuda/kernels/transport_plans_params.h"

namespace softmoe::cuda {

constexpr int kThreads = 1024, kWarps = kThreads / kWarpSize, kColumns = 32, kParts = kThreads / kColumns;

// log(sum of exp) of what has been seen so far.
struct LogSumExp {
  float max = -INFINITY, sum = 0;
  __device__ __forceinline__ void add(float x) {
    if (x > max) {
      sum = sum * exponential(max - x) + 1.0f;
      max = x;
    } else if (x > -INFINITY) {
      sum += exponential(x - max);
    }
  }
  __device__ __forceinline__ void join(float other_max, float other_sum) {
    if (other_sum == 0) return;
    const float largest = fmaxf(max, other_max);
    sum = sum * exponential(max - largest) + other_sum * exponential(other_max - largest);
    max = largest;
  }
  __device__ __forceinline__ float value() const { return max + logf(sum); }
};

extern "C" __global__ void __launch_bounds__(kThreads) sinkhorn_plan(const __grid_constant__ Sinkhorn p) {
  __shared__ float maxima[kParts][kColumns], sums[kParts][kColumns];
  const std::size_t first = static_cast<std::size_t>(blockIdx.x) * p.tokens * p.experts;
  const float* logits = p.logits + first;
  float* f = p.f + static_cast<std::size_t>(blockIdx.x) * p.tokens;
  float* g = p.g + static_cast<std::size_t>(blockIdx.x) * p.experts;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const float log_share = logf(static_cast<float>(p.tokens) / static_cast<float>(p.experts));
  for (int s = threadIdx.x; s < p.tokens; s += kThreads) f[s] = 0;
  __syncthreads();
#pragma unroll 1
  for (int iteration = 0; iteration < p.iterations; ++iteration) {
    for (int column = 0; column < p.experts; column += kColumns) {
      const int e = column + lane;
      LogSumExp part;
      if (e < p.experts) {
        for (int s = warp; s < p.tokens; s += kParts) {
          part.add(logits[static_cast<std::size_t>(s) * p.experts + e] + f[s]);
        }
      }
      maxima[warp][lane] = part.max;
      sums[warp][lane] = part.sum;
      __syncthreads();
      if (warp == 0 && e < p.experts) {
        LogSumExp total;
        for (int other = 0; other < kParts; ++other) total.join(maxima[other][lane], sums[other][lane]);
        g[e] = log_share - total.value();
      }
      __syncthreads();
    }
    for (int s = warp; s < p.tokens; s += kWarps) {
      const float* row = logits + static_cast<std::size_t>(s) * p.experts;
      float largest = -INFINITY, sum = 0;
      for (int e = lane; e < p.experts; e += kWarpSize) largest = fmaxf(largest, row[e] + g[e]);
      largest = warp_max(largest);
      for (int e = lane; e < p.experts; e += kWarpSize) sum += exponential(row[e] + g[e] - largest);
      sum = warp_sum(sum);
      if (lane == 0) f[s] = -(largest + logf(sum));
    }
    __syncthreads();
  }
  for (int s = warp; s < p.tokens; s += kWarps) {
    const std::size_t at = static_cast<std::size_t>(s) * p.experts;
    for (int e = lane; e < p.experts; e += kWarpSize) {
      p.plan[first + at + e] = exponential(logits[at + e] + f[s] + g[e]);
    }
  }
}

__device__ __forceinline__ double warp_sum_double(double x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

// Solves A x = b, A [n, n] symmetric and positive (semi-)definite, by its Cholesky factor, which replaces A
// with inverted diagonal. A direction without curvature gets 0: there any value solves.
__device__ void solve_in_place(double* a, double* x, int n) {
  __shared__ double shared_value;
  for (int j = 0; j < n; ++j) {
    if (threadIdx.x == 0) {
      const double diagonal = a[j * n + j];
      double pivot = diagonal;
      for (int k = 0; k < j; ++k) pivot -= a[j * n + k] * a[j * n + k];
      shared_value = pivot > 1e-12 * diagonal ? 1.0 / sqrt(pivot) : 0.0;
      a[j * n + j] = shared_value;
    }
    __syncthreads();
    for (int i = j + 1 + static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      double value = a[i * n + j];
      for (int k = 0; k < j; ++k) value -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = value * shared_value;
    }
    __syncthreads();
  }
  for (int j = 0; j < n; ++j) {
    if (threadIdx.x == 0) x[j] *= a[j * n + j];
    __syncthreads();
    for (int i = j + 1 + static_cast<int>(threadIdx.x); i < n; i += kThreads) x[i] -= a[i * n + j] * x[j];
    __syncthreads();
  }
  for (int j = n - 1; j >= 0; --j) {
    if (threadIdx.x == 0) x[j] *= a[j * n + j];
    __syncthreads();
    for (int i = threadIdx.x; i < j; i += kThreads) x[i] -= a[j * n + i] * x[j];
    __syncthreads();
  }
}

// With Q = dplan, W = plan * Q and row and column sums a, b of the plan, the multipliers of the two
// constraints solve
//   a_s lambda_s + sum over e of plan_se mu_e = sum over e of W_se, and alike for the columns;
// dlogits = plan (Q - lambda_s - mu_e). Elimination of lambda leaves the Schur complement
//   (diag(b) - plan^T diag(1/a) plan) mu = W^T 1 - plan^T diag(1/a) W 1,
// singular along constants: the last mu is 0. All in float64.
extern "C" __global__ void __launch_bounds__(kThreads)
    sinkhorn_gradient(const __grid_constant__ SinkhornGradient p) {
  const std::size_t first = static_cast<std::size_t>(blockIdx.x) * p.tokens * p.experts;
  const float* plan = p.plan + first;
  const float* dplan = p.dplan + first;
  double* inverse_rows = p.inverse_rows + static_cast<std::size_t>(blockIdx.x) * p.tokens;
  double* row_products = p.row_products + static_cast<std::size_t>(blockIdx.x) * p.tokens;
  double* mu = p.mu + static_cast<std::size_t>(blockIdx.x) * p.experts;
  const int open = p.experts - 1;
  double* schur = p.schur + static_cast<std::size_t>(blockIdx.x) * open * open;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;

  for (int s = warp; s < p.tokens; s += kWarps) {
    const std::size_t row = static_cast<std::size_t>(s) * p.experts;
    double sum = 0, product = 0;
    for (int e = lane; e < p.experts; e += kWarpSize) {
      sum += static_cast<double>(plan[row + e]);
      product += static_cast<double>(plan[row + e]) * static_cast<double>(dplan[row + e]);
    }
    sum = warp_sum_double(sum);
    product = warp_sum_double(product);
    if (lane == 0) {
      inverse_rows[s] = sum > 0 ? 1.0 / sum : 0.0;
      row_products[s] = product;
    }
  }
  __syncthreads();
  for (int entry = threadIdx.x; entry < open * open; entry += kThreads) {
    const int e = entry / open, other = entry % open;
    double value = 0, column = 0, right = 0;
    for (int s = 0; s < p.tokens; ++s) {
      const std::size_t row = static_cast<std::size_t>(s) * p.experts;
      const double weight = static_cast<double>(plan[row + e]), scaled = weight * inverse_rows[s];
      value -= scaled * static_cast<double>(plan[row + other]);
      if (e == other) {
        column += weight;
        right += weight * static_cast<double>(dplan[row + e]) - scaled * row_products[s];
      }
    }
    schur[entry] = value + column;
    if (e == other) mu[e] = right;
  }
  if (threadIdx.x == 0) mu[open] = 0;
  __syncthreads();
  solve_in_place(schur, mu, open);
  for (int s = warp; s < p.tokens; s += kWarps) {
    const std::size_t row = static_cast<std::size_t>(s) * p.experts;
    double covered = 0;
    for (int e = lane; e < p.experts; e += kWarpSize) covered += static_cast<double>(plan[row + e]) * mu[e];
    const double lambda = (row_products[s] - warp_sum_double(covered)) * inverse_rows[s];
    for (int e = lane; e < p.experts; e += kWarpSize) {
      p.dlogits[first + row + e] = static_cast<float>(static_cast<double>(plan[row + e]) *
                                                      (static_cast<double>(dplan[row + e]) - lambda - mu[e]));
    }
  }
}

}  // namespace softmoe::cuda
