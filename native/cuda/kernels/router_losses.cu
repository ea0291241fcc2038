// Auxiliary losses of routers (V-MoE, appendix A; GShard; z-loss), one number a group, and their gradients.
//
// A warp a token finds what its summands need (the k-th largest noisy logit, the first choice, the
// log-sum-exp); a block sums 32 experts of a group over its tokens, in float64 and a fixed order; a warp a
// group makes the loss or its derivative by the sums; the backward ends with a warp a token. Bytes: the
// logits three times at most, once a kernel.
#include "cuda/kernels/router_losses_params.h"
#include "cuda/kernels/row_team.cuh"
#include "cuda/kernels/selection.cuh"
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

using Team = RowTeam<kWarpSize>;

// The experts of a token, four at a time.
__device__ __forceinline__ float4 load_experts(const RouterLossArgs& p, const float* row, std::int64_t i,
                                               int n) {
  return load4_partial(row + i, n, p.aligned);
}

// The next in order after `last` (index -1: the first) of a row, found by a warp. NaN counts as -infinity.
template <class Row>
__device__ __forceinline__ Best next_best(const Row& row, int count, const Best& last) {
  Best best{-INFINITY, count};
  row.for_fours([&](std::int64_t i, int n, float4 v) {
    const auto look = [&](float value, int offset) {
      if (offset >= n) return;
      const Best candidate{isnan(value) ? -INFINITY : value, static_cast<int>(i) + offset};
      if ((last.index < 0 || comes_before(last, candidate)) && comes_before(candidate, best))
        best = candidate;
    };
    look(v.x, 0), look(v.y, 1), look(v.z, 2), look(v.w, 3);
  });
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const Best other{__shfl_xor_sync(kFullWarp, best.value, step),
                     __shfl_xor_sync(kFullWarp, best.index, step)};
    if (comes_before(other, best)) best = other;
  }
  return best;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    router_loss_tokens(const __grid_constant__ RouterLossArgs p) {
  const std::int64_t token = Team::row();
  if (token >= static_cast<std::int64_t>(p.groups) * p.tokens) return;
  const float* row = (p.loss == RouterLoss::kLoad ? p.b : p.a) + token * p.experts;
  const auto load_row = [&](std::int64_t i, int n) { return load_experts(p, row, i, n); };
  const auto kept = Team::keep(p.experts, load_row);
  if (p.loss == RouterLoss::kZ) {
    const float largest = kept.largest();
    const float sum =
        kept.sum_of([&](float4 a) { return map4(a, [&](float v) { return exponential(v - largest); }); });
    if (Team::rank() == 0) p.token_value[token] = largest + logf(sum);
    return;
  }
  const int rank = p.loss == RouterLoss::kLoad ? p.k : 1;
  Best best{0, -1};
  for (int i = 0; i < rank; ++i) best = next_best(kept, p.experts, best);
  if (Team::rank() == 0) {
    p.token_value[token] = row[best.index];
    p.token_expert[token] = best.index;
  }
}

// What a token adds to the sum of an expert.
__device__ __forceinline__ float summand(const RouterLossArgs& p, float value, float token_value) {
  if (p.loss == RouterLoss::kZ) return token_value * token_value;
  if (p.loss != RouterLoss::kLoad) return value;
  return 0.5f * erfcf((token_value - value) / p.sigma * kSqrtHalf);
}

// A warp takes 32 tokens at a time, whose numbers its lanes hold.
extern "C" __global__ void __launch_bounds__(kThreads)
    router_loss_sums(const __grid_constant__ RouterLossArgs p) {
  __shared__ double sums[kWarps][kWarpSize], counts[kWarps][kWarpSize];
  const int chunks = (p.experts + kWarpSize - 1) / kWarpSize;
  const int group = blockIdx.x / chunks, lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int e = blockIdx.x % chunks * kWarpSize + lane;
  const bool counts_choices = p.loss == RouterLoss::kGshard;
  const bool has_values = p.loss == RouterLoss::kLoad || p.loss == RouterLoss::kZ;
  const std::int64_t first = static_cast<std::int64_t>(group) * p.tokens;
  double sum = 0, count = 0;
  for (int begin = warp * kWarpSize; begin < p.tokens; begin += kThreads) {
    const int tokens = min(p.tokens - begin, kWarpSize);
    const bool exists = lane < tokens;
    const float own_value = has_values && exists ? p.token_value[first + begin + lane] : 0;
    const int own_expert = counts_choices && exists ? p.token_expert[first + begin + lane] : -1;
#pragma unroll 4
    for (int s = 0; s < tokens; ++s) {
      const float token_value = __shfl_sync(kFullWarp, own_value, s);
      const int token_expert = __shfl_sync(kFullWarp, own_expert, s);
      if (e >= p.experts) continue;
      const float value = p.loss == RouterLoss::kZ ? 0 : p.a[(first + begin + s) * p.experts + e];
      sum += static_cast<double>(summand(p, value, token_value));
      if (token_expert == e) count += 1;
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
// mean^3). Both come from the variance, not its root, so that balance has the gradient 0. A warp a group.
extern "C" __global__ void __launch_bounds__(kThreads)
    router_loss_finish(const __grid_constant__ RouterLossArgs p) {
  const std::int64_t group = Team::row();
  if (group >= p.groups) return;
  const double* sums = p.sums + static_cast<std::size_t>(group) * 2 * p.experts;
  const double experts = p.experts, tokens = p.tokens;
  double mean = 0, variance = 0, product = 0;
  for (int e = Team::rank(); e < p.experts; e += kWarpSize) mean += sums[e] / experts;
  mean = warp_sum(mean);
  for (int e = Team::rank(); e < p.experts; e += kWarpSize) {
    variance += (sums[e] - mean) * (sums[e] - mean) / experts;
    product += sums[e] * sums[p.experts + e];
  }
  variance = warp_sum(variance);
  product = warp_sum(product);
  if (p.losses) {
    double loss = variance == 0 ? 0.0 : variance / (mean * mean);
    if (p.loss == RouterLoss::kZ) loss = sums[0] / tokens;
    if (p.loss == RouterLoss::kGshard) loss = product * experts / (tokens * tokens);
    if (Team::rank() == 0) p.losses[group] = static_cast<float>(loss);
    return;
  }
  const double dloss = static_cast<double>(p.dlosses[group]);
  for (int e = Team::rank(); e < p.experts; e += kWarpSize) {
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
  const std::int64_t token = Team::row();
  if (token >= static_cast<std::int64_t>(p.groups) * p.tokens) return;
  const std::int64_t group = token / p.tokens;
  const float* a = p.a + token * p.experts;
  const float* slope = p.slope + group * p.experts;
  float* da = p.da + token * p.experts;
  if (p.loss == RouterLoss::kZ) {
    // d lse^2 / da = 2 lse softmax(a).
    const float lse = p.token_value[token];
    const float factor = 2.0f * p.dlosses[group] / static_cast<float>(p.tokens) * lse;
    Team::for_fours(p.experts, [&](std::int64_t i, int n) {
      const auto gradient = [&](float v) { return factor * exponential(v - lse); };
      store4_partial(da + i, map4(load_experts(p, a, i, n), gradient), n, p.aligned);
    });
  } else if (p.loss == RouterLoss::kLoad) {
    const float threshold = p.token_value[token];
    const int index = p.token_expert[token];
    const auto load_derivatives = [&](std::int64_t i, int n) {
      return map4(load_experts(p, a, i, n), load_experts(p, slope, i, n), [&](float v, float by_sum) {
        const float z = (v - threshold) / p.sigma;
        return by_sum * kInverseSqrt2Pi * exponential(-0.5f * z * z) / p.sigma;
      });
    };
    const auto kept = Team::keep(p.experts, load_derivatives);
    const float moved = kept.sum_of([](float4 derivative) { return derivative; });
    // The threshold moves with its own logit.
    kept.for_fours([&](std::int64_t i, int n, float4 v) {
      if (i == index) v.x -= moved;
      if (i + 1 == index) v.y -= moved;
      if (i + 2 == index) v.z -= moved;
      if (i + 3 == index) v.w -= moved;
      store4_partial(da + i, v, n, p.aligned);
    });
  } else {
    Team::for_fours(p.experts, [&](std::int64_t i, int n) {
      store4_partial(da + i, load_experts(p, slope, i, n), n, p.aligned);
    });
  }
}

}  // namespace softmoe::cuda
