// Auxiliary losses of routers (V-MoE, appendix A; GShard; z-loss), one number a group, and their gradients.
//
// A warp a token finds what its summands need (the k-th largest noisy logit, the first choice, the
// log-sum-exp); a block sums 32 experts of a group over its tokens, in float64 and a fixed order; a thread a
// group makes the loss or its derivative by the sums; the backward ends with a warp a token. Bytes: the
// logits three times at most.
#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/router_losses_params.h"
#include "cuda/kernels/soft_weights.cuh"

namespace softmoe::cuda {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr float kSqrtHalf = 0.7071067811865476f, kInverseSqrt2Pi = 0.3989422804014327f;

// A candidate for the largest element: ties go to the lower index.
struct Best {
  float value;
  int index;
};
__device__ __forceinline__ bool comes_before(const Best& x, const Best& y) {
  return x.value > y.value || (x.value == y.value && x.index < y.index);
}

// The next in order after `last` (index -1: the first) of a row, found by a warp. NaN counts as -infinity.
__device__ __forceinline__ Best next_best(const float* row, int count, const Best& last) {
  const int lane = threadIdx.x % kWarpSize;
  Best best{-INFINITY, count};
  for (int e = lane; e < count; e += kWarpSize) {
    const float value = isnan(row[e]) ? -INFINITY : row[e];
    const Best candidate{value, e};
    if ((last.index < 0 || comes_before(last, candidate)) && comes_before(candidate, best)) best = candidate;
  }
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const Best other{__shfl_xor_sync(kFullWarp, best.value, step),
                     __shfl_xor_sync(kFullWarp, best.index, step)};
    if (comes_before(other, best)) best = other;
  }
  return best;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    router_loss_tokens(const __grid_constant__ RouterLossArgs p) {
  const std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (token >= static_cast<std::int64_t>(p.groups) * p.tokens) return;
  const int lane = threadIdx.x % kWarpSize;
  const float* a = p.a + token * p.experts;
  if (p.loss == RouterLoss::kZ) {
    float largest = -INFINITY, sum = 0;
    for (int e = lane; e < p.experts; e += kWarpSize) largest = fmaxf(largest, a[e]);
    largest = warp_max(largest);
    for (int e = lane; e < p.experts; e += kWarpSize) sum += exponential(a[e] - largest);
    sum = warp_sum(sum);
    if (lane == 0) p.token_value[token] = largest + logf(sum);
    return;
  }
  const float* row = p.loss == RouterLoss::kLoad ? p.b + token * p.experts : a;
  const int rank = p.loss == RouterLoss::kLoad ? p.k : 1;
  Best best{0, -1};
  for (int i = 0; i < rank; ++i) best = next_best(row, p.experts, best);
  if (lane == 0) {
    p.token_value[token] = row[best.index];
    p.token_expert[token] = best.index;
  }
}

// What token s of a group adds to the sum of expert e.
__device__ __forceinline__ float summand(const RouterLossArgs& p, std::int64_t token, int e) {
  const float value = p.loss == RouterLoss::kZ ? p.token_value[token] : p.a[token * p.experts + e];
  if (p.loss == RouterLoss::kZ) return value * value;
  if (p.loss != RouterLoss::kLoad) return value;
  return 0.5f * erfcf((p.token_value[token] - value) / p.sigma * kSqrtHalf);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    router_loss_sums(const __grid_constant__ RouterLossArgs p) {
  __shared__ double sums[kWarps][kWarpSize], counts[kWarps][kWarpSize];
  const int chunks = (p.experts + kWarpSize - 1) / kWarpSize;
  const int group = blockIdx.x / chunks, lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int e = blockIdx.x % chunks * kWarpSize + lane;
  const bool counts_choices = p.loss == RouterLoss::kGshard;
  double sum = 0, count = 0;
  if (e < p.experts) {
    for (int s = warp; s < p.tokens; s += kWarps) {
      const std::int64_t token = static_cast<std::int64_t>(group) * p.tokens + s;
      sum += static_cast<double>(summand(p, token, e));
      if (counts_choices && p.token_expert[token] == e) count += 1;
    }
  }
  sums[warp][lane] = sum;
  counts[warp][lane] = count;
  __syncthreads();
  if (warp != 0 || e >= p.experts) return;
  sum = count = 0;
  for (int other = 0; other < kWarps; ++other) {
    sum += sums[other][lane];
    count += counts[other][lane];
  }
  double* out = p.sums + static_cast<std::size_t>(group) * 2 * p.experts;
  out[e] = sum;
  out[p.experts + e] = count;
}

// Squared coefficient of variation, and its derivative by each value: 2 (v - mean) / (E mean^2) - 2 var / (E
// mean^3). Both come from the variance, not its root, so that balance has the gradient 0.
extern "C" __global__ void __launch_bounds__(kThreads)
    router_loss_finish(const __grid_constant__ RouterLossArgs p) {
  const int group = blockIdx.x * kThreads + threadIdx.x;
  if (group >= p.groups) return;
  const double* sums = p.sums + static_cast<std::size_t>(group) * 2 * p.experts;
  const double experts = p.experts, tokens = p.tokens;
  double mean = 0, variance = 0, product = 0;
  for (int e = 0; e < p.experts; ++e) mean += sums[e] / experts;
  for (int e = 0; e < p.experts; ++e) {
    variance += (sums[e] - mean) * (sums[e] - mean) / experts;
    product += sums[e] * sums[p.experts + e];
  }
  if (p.losses) {
    double loss = variance == 0 ? 0.0 : variance / (mean * mean);
    if (p.loss == RouterLoss::kZ) loss = sums[0] / tokens;
    if (p.loss == RouterLoss::kGshard) loss = product * experts / (tokens * tokens);
    p.losses[group] = static_cast<float>(loss);
    return;
  }
  const double dloss = static_cast<double>(p.dlosses[group]);
  for (int e = 0; e < p.experts; ++e) {
    double derivative = 0;
    if (p.loss == RouterLoss::kGshard) {
      derivative = experts * sums[p.experts + e] / (tokens * tokens);
    } else if (variance != 0) {
      derivative = 2 / (experts * mean * mean) * (sums[e] - mean - variance / mean);
    }
    p.slope[static_cast<std::size_t>(group) * p.experts + e] = static_cast<float>(dloss * derivative);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    router_loss_gradient(const __grid_constant__ RouterLossArgs p) {
  const std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (token >= static_cast<std::int64_t>(p.groups) * p.tokens) return;
  const int lane = threadIdx.x % kWarpSize;
  const std::int64_t group = token / p.tokens;
  const float* a = p.a + token * p.experts;
  const float* slope = p.slope + group * p.experts;
  float* da = p.da + token * p.experts;
  if (p.loss == RouterLoss::kZ) {
    // d lse^2 / da = 2 lse softmax(a).
    const float lse = p.token_value[token];
    const float factor = 2.0f * p.dlosses[group] / static_cast<float>(p.tokens) * lse;
    for (int e = lane; e < p.experts; e += kWarpSize) da[e] = factor * exponential(a[e] - lse);
  } else if (p.loss == RouterLoss::kLoad) {
    const float threshold = p.token_value[token];
    const int index = p.token_expert[token];
    const auto derivative = [&](int e) {
      const float z = (a[e] - threshold) / p.sigma;
      return slope[e] * kInverseSqrt2Pi * exponential(-0.5f * z * z) / p.sigma;
    };
    float moved = 0;
    for (int e = lane; e < p.experts; e += kWarpSize) moved += derivative(e);
    moved = warp_sum(moved);
    // The threshold moves with its own logit.
    for (int e = lane; e < p.experts; e += kWarpSize) da[e] = derivative(e) - (e == index ? moved : 0.0f);
  } else {
    for (int e = lane; e < p.experts; e += kWarpSize) da[e] = slope[e];
  }
}

}  // namespace softmoe::cuda
