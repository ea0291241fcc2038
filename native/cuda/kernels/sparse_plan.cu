// Sparsity-constrained quadratic transport plans (Liu, Puigcerver and Blondel, "Sparsity-constrained optimal
// transport", ICLR 2023) by Adam on the semi-dual, whose variable alpha has one element a row.
//
// With rows i, columns j, row sums a, column sums b, x_j = alpha + similarity[:, j]:
//   column j of the plan = b_j * the point of the simplex with at most k non-zeros that is nearest to
//   x_j / (gamma b_j);   gradient = row sums of the plan - a
// The nearest point keeps the k largest (ties: the lower row) and takes max(0, t - tau) with tau such that
// they sum to 1. A block a column and then a block a group, once an iteration; float64 throughout, as the
// steps of Adam are close to signs of the gradient and would magnify rounding. A column of up to 8192 rows
// stays in shared memory. Bytes an element and iteration: similarity 4, alpha 8, the plan 8 and 8 again.
#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/sparse_plan_params.h"

namespace softmoe::cuda {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

struct SumAndCount {
  double sum;
  int count;
};

// Every thread gets the block's totals, added in a fixed order.
__device__ SumAndCount block_total(double sum, int count) {
  __shared__ double sums[kWarps];
  __shared__ int counts[kWarps];
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, step);
    count += __shfl_xor_sync(kFullWarp, count, step);
  }
  __syncthreads();  // earlier readers are done
  if (threadIdx.x % kWarpSize == 0) {
    sums[threadIdx.x / kWarpSize] = sum;
    counts[threadIdx.x / kWarpSize] = count;
  }
  __syncthreads();
  SumAndCount total{0, 0};
  for (int warp = 0; warp < kWarps; ++warp) {
    total.sum += sums[warp];
    total.count += counts[warp];
  }
  return total;
}

// Sets all but the k largest values (ties: the lower index) to -infinity: each counts those before it.
__device__ void keep_largest(double* values, bool* dropped, int count, int k) {
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const double value = values[i];
    int before = 0;
    for (int other = 0; other < count; ++other) {
      before += values[other] > value || (values[other] == value && other < i);
    }
    dropped[i] = before >= k;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (dropped[i]) values[i] = -INFINITY;
  }
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(kThreads)
    sparse_plan_columns(const __grid_constant__ SemiDual p) {
  const int group = blockIdx.x / p.columns, column = blockIdx.x % p.columns;
  if (p.done[group] && !p.is_last) return;
  extern __shared__ __align__(16) char shared[];
  const std::size_t first = (static_cast<std::size_t>(group) * p.columns + column) * p.rows;
  const float* similarity = p.similarity + first;
  double* plan = p.in_shared ? reinterpret_cast<double*>(shared) : p.plan + first;
  const double* alpha = p.alpha + static_cast<std::size_t>(group) * p.rows;
  const double factor = 1 / (p.gamma * p.column_sum);
  for (int i = threadIdx.x; i < p.rows; i += kThreads) {
    plan[i] = (alpha[i] + static_cast<double>(similarity[i])) * factor;
  }
  __syncthreads();
  if (p.k < p.rows) {
    bool* dropped = p.in_shared ? reinterpret_cast<bool*>(plan + p.rows) : p.dropped + first;
    keep_largest(plan, dropped, p.rows, p.k);
  }

  // tau is found by dropping what falls to 0 until nothing does.
  double tau = -INFINITY;
  for (int held = -1;;) {
    double sum = 0;
    int count = 0;
    for (int i = threadIdx.x; i < p.rows; i += kThreads) {
      if (!(plan[i] > tau)) continue;
      sum += plan[i];
      ++count;
    }
    const SumAndCount total = block_total(sum, count);
    if (total.count == held || total.count == 0) break;
    held = total.count;
    tau = (total.sum - 1) / static_cast<double>(total.count);
  }
  for (int i = threadIdx.x; i < p.rows; i += kThreads) {
    const double value = plan[i] > tau ? (plan[i] - tau) * p.column_sum : 0.0;
    if (p.is_last) {
      p.result[first + i] = static_cast<float>(value);
    } else {
      p.plan[first + i] = value;
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads) sparse_plan_step(const __grid_constant__ SemiDual p) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;
  const int group = blockIdx.x;
  if (p.done[group]) return;
  const double* plan = p.plan + static_cast<std::size_t>(group) * p.rows * p.columns;
  const std::size_t first_row = static_cast<std::size_t>(group) * p.rows;
  double squares = 0;
  for (int i = threadIdx.x; i < p.rows; i += kThreads) {
    double gradient = -p.row_sum;
    for (int column = 0; column < p.columns; ++column) {
      gradient += plan[static_cast<std::size_t>(column) * p.rows + i];
    }
    squares += gradient * gradient;
    double& first = p.first_moment[first_row + i];
    double& second = p.second_moment[first_row + i];
    first = kBeta1 * first + (1 - kBeta1) * gradient;
    second = kBeta2 * second + (1 - kBeta2) * gradient * gradient;
    p.alpha[first_row + i] -=
        p.learning_rate * (first / p.correction1) / (sqrt(second / p.correction2) + kEps);
  }
  // The step is taken also when the gradient before it was small enough.
  const double norm = sqrt(block_total(squares, 0).sum);
  if (threadIdx.x == 0 && norm <= p.tolerance) p.done[group] = 1;
}

}  // namespace softmoe::cuda
