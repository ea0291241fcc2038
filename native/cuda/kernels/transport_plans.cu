// Entropic transport plans by Sinkhorn steps in the log domain, and their implicit gradient. One block a
// group.
//
//   f = 0; repeat g_e = ln(S/E) - lse_s(L + f), f_s = -lse_e(L + g); plan = exp(L + f + g)
//
// Columns: 32 experts side by side, 32 threads each; rows: a warp a token. Two exponentials an element and
// iteration; the logits are read once for each of them and stay in the caches, f and g in shared memory.
#include "cuda/kernels/row_team.cuh"
#include "cuda/kernels/selection.cuh"
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
  extern __shared__ __align__(16) char shared[];
  __shared__ float maxima[kParts][kColumns], sums[kParts][kColumns];
  using Team = RowTeam<kWarpSize>;
  const std::size_t first = static_cast<std::size_t>(blockIdx.x) * p.tokens * p.experts;
  const float* logits = p.logits + first;
  // Groups that are too large for shared memory keep them in global memory.
  float* g = p.g ? p.g + static_cast<std::size_t>(blockIdx.x) * p.experts : reinterpret_cast<float*>(shared);
  float* f = p.f ? p.f + static_cast<std::size_t>(blockIdx.x) * p.tokens : g + p.experts;
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
      const auto load_row = [&](std::int64_t i, int n) {
        return map4(load4_partial(row + i, n, p.aligned), load4_partial(g + i, n, p.aligned),
                    [](float logit, float other) { return logit + other; });
      };
      const auto kept = Team::keep<4>(p.experts, load_row);
      const float largest = kept.largest();
      const float sum =
          kept.sum_of([&](float4 v) { return map4(v, [&](float x) { return exponential(x - largest); }); });
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

// Solves A x = b, A [n, n] symmetric and positive (semi-)definite, by its Cholesky factor, whose transpose
// replaces the upper triangle of A with inverted diagonal: neighbouring threads meet neighbouring elements. A
// direction without curvature gets 0: there any value solves.
__device__ void solve_in_place(double* a, double* x, int n) {
  __shared__ double shared_value;
  for (int j = 0; j < n; ++j) {
    if (threadIdx.x == 0) {
      const double diagonal = a[j * n + j];
      double pivot = diagonal;
      for (int k = 0; k < j; ++k) pivot -= a[k * n + j] * a[k * n + j];
      shared_value = pivot > 1e-12 * diagonal ? 1.0 / sqrt(pivot) : 0.0;
      a[j * n + j] = shared_value;
    }
    __syncthreads();
    for (int i = j + 1 + static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      double value = a[j * n + i];
      for (int k = 0; k < j; ++k) value -= a[k * n + i] * a[k * n + j];
      a[j * n + i] = value * shared_value;
    }
    __syncthreads();
  }
  for (int j = 0; j < n; ++j) {
    if (threadIdx.x == 0) x[j] *= a[j * n + j];
    __syncthreads();
    for (int i = j + 1 + static_cast<int>(threadIdx.x); i < n; i += kThreads) x[i] -= a[j * n + i] * x[j];
    __syncthreads();
  }
  for (int j = n - 1; j >= 0; --j) {
    if (threadIdx.x == 0) x[j] *= a[j * n + j];
    __syncthreads();
    for (int i = threadIdx.x; i < j; i += kThreads) x[i] -= a[i * n + j] * x[j];
    __syncthreads();
  }
}

// With Q = dplan, W = plan * Q and row and column sums a, b of the plan, the multipliers of the two
// constraints solve
//   a_s lambda_s + sum over e of plan_se mu_e = sum over e of W_se, and alike for the columns;
// dlogits = plan (Q - lambda_s - mu_e). Elimination of lambda leaves the Schur complement
//   (diag(b) - plan^T diag(1/a) plan) mu = W^T 1 - plan^T diag(1/a) W 1,
// singular along constants: the last mu is 0. All in float64. Every 2048 elements of the complement take one
// pass over plan and dplan, tile by tile through shared memory; complements of up to 64 x 64 stay there too.
extern "C" __global__ void __launch_bounds__(kThreads)
    sinkhorn_gradient(const __grid_constant__ SinkhornGradient p) {
  extern __shared__ __align__(16) char shared[];
  const std::size_t first = static_cast<std::size_t>(blockIdx.x) * p.tokens * p.experts;
  const float* plan = p.plan + first;
  const float* dplan = p.dplan + first;
  double* inverse_rows = p.inverse_rows + static_cast<std::size_t>(blockIdx.x) * p.tokens;
  double* row_products = p.row_products + static_cast<std::size_t>(blockIdx.x) * p.tokens;
  double* mu = p.mu + static_cast<std::size_t>(blockIdx.x) * p.experts;
  const int open = p.experts - 1;
  double* inverse_tile = reinterpret_cast<double*>(shared);  // of tile_rows tokens, as are the other tiles
  double* product_tile = inverse_tile + p.tile_rows;
  double* shared_schur = product_tile + p.tile_rows;
  double* schur = p.schur ? p.schur + static_cast<std::size_t>(blockIdx.x) * open * open : shared_schur;
  float* plan_tile = reinterpret_cast<float*>(shared_schur + (p.schur ? 0 : open * open));
  float* dplan_tile = plan_tile + p.tile_rows * p.experts;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;

  for (int s = warp; s < p.tokens; s += kWarps) {
    const std::size_t row = static_cast<std::size_t>(s) * p.experts;
    double sum = 0, product = 0;
    for (int e = lane; e < p.experts; e += kWarpSize) {
      sum += static_cast<double>(plan[row + e]);
      product += static_cast<double>(plan[row + e]) * static_cast<double>(dplan[row + e]);
    }
    sum = warp_sum(sum);
    product = warp_sum(product);
    if (lane == 0) {
      inverse_rows[s] = sum > 0 ? 1.0 / sum : 0.0;
      row_products[s] = product;
    }
  }
  __syncthreads();
  constexpr int kEntries = 2;  // of a thread
  for (int entries = 0; entries < open * open; entries += kEntries * kThreads) {
    double value[kEntries] = {}, column[kEntries] = {}, right[kEntries] = {};
    for (int begin = 0; begin < p.tokens; begin += p.tile_rows) {
      const int rows = min(p.tokens - begin, p.tile_rows);
      __syncthreads();
      for (int i = threadIdx.x; i < rows * p.experts; i += kThreads) {
        plan_tile[i] = plan[static_cast<std::size_t>(begin) * p.experts + i];
        dplan_tile[i] = dplan[static_cast<std::size_t>(begin) * p.experts + i];
      }
      for (int i = threadIdx.x; i < rows; i += kThreads) {
        inverse_tile[i] = inverse_rows[begin + i];
        product_tile[i] = row_products[begin + i];
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kEntries; ++k) {
        const int entry = entries + k * kThreads + static_cast<int>(threadIdx.x);
        if (entry >= open * open) continue;
        const int e = entry / open, other = entry % open;
        for (int s = 0; s < rows; ++s) {
          const double weight = static_cast<double>(plan_tile[s * p.experts + e]);
          const double scaled = weight * inverse_tile[s];
          value[k] -= scaled * static_cast<double>(plan_tile[s * p.experts + other]);
          if (e == other) {
            column[k] += weight;
            right[k] +=
                weight * static_cast<double>(dplan_tile[s * p.experts + e]) - scaled * product_tile[s];
          }
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kEntries; ++k) {
      const int entry = entries + k * kThreads + static_cast<int>(threadIdx.x);
      if (entry >= open * open) continue;
      schur[entry] = value[k] + column[k];
      if (entry / open == entry % open) mu[entry / open] = right[k];
    }
  }
  if (threadIdx.x == 0) mu[open] = 0;
  __syncthreads();
  solve_in_place(schur, mu, open);
  // Lanes keep the multipliers of the first 128 experts, and of each token their part of the plan.
  constexpr int kKept = 4;
  double multiplier[kKept];
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int e = lane + k * kWarpSize;
    multiplier[k] = e < p.experts ? mu[e] : 0.0;
  }
  for (int s = warp; s < p.tokens; s += kWarps) {
    const std::size_t row = static_cast<std::size_t>(s) * p.experts;
    float kept[kKept];
    double covered = 0;
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int e = lane + k * kWarpSize;
      kept[k] = e < p.experts ? plan[row + e] : 0.0f;
      covered += static_cast<double>(kept[k]) * multiplier[k];
    }
    for (int e = lane + kKept * kWarpSize; e < p.experts; e += kWarpSize) {
      covered += static_cast<double>(plan[row + e]) * mu[e];
    }
    const double lambda = (row_products[s] - warp_sum(covered)) * inverse_rows[s];
    const auto store = [&](int e, float weight, double of_column) {
      p.dlogits[first + row + e] = static_cast<float>(
          static_cast<double>(weight) * (static_cast<double>(dplan[row + e]) - lambda - of_column));
    };
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      if (lane + k * kWarpSize < p.experts) store(lane + k * kWarpSize, kept[k], multiplier[k]);
    }
    for (int e = lane + kKept * kWarpSize; e < p.experts; e += kWarpSize) store(e, plan[row + e], mu[e]);
  }
}

}  // namespace softmoe::cuda
