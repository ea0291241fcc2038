// Auxiliary losses of routers (V-MoE, appendix A; GShard; z-loss), one number a group, and their gradients.
//
// All four begin with sums over the tokens of a group: of the gates (importance, gshard), of the
// probabilities to be among the k best under fresh noise (load), of how often an expert is the first choice
// (gshard), of the squared log-sum-exp (z). Blocks of kBlockTokens tokens are summed in float32 in ascending
// order, then the blocks' sums in float64: no order depends on the threads. The backward makes the sums again
// and then one pass over the tokens.
#include <cstdint>

#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/selection.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/vector_math.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

constexpr std::int64_t kBlockTokens = 64;

// What forward and backward have in common.
struct Loss {
  RouterLoss kind;
  std::int64_t tokens, experts, k;
  float sigma;
  const float *a, *b;

  const float* row(const float* x, std::int64_t token) const { return x + token * experts; }
  // Numbers that are summed over tokens.
  std::int64_t sums() const {
    return kind == RouterLoss::kZ ? 1 : kind == RouterLoss::kGshard ? 2 * experts : experts;
  }
};

template <class Args>
Loss loss_of(const Args& args) {
  return {args.loss,
          args.shape.tokens,
          args.shape.experts,
          args.k,
          static_cast<float>(args.sigma),
          args.a.template as<float>(),
          args.b.template as<float>()};
}

// Index of the k-th largest noisy logit of a token.
std::int32_t threshold_index(const Loss& loss, std::int64_t token, std::int32_t* best) {
  top_k(loss.row(loss.b, token), loss.experts, loss.k, best);
  return best[loss.k - 1];
}

float log_sum_exp(const float* x, std::int64_t count) {
  Vec largest = splat(-__builtin_inff());
  by_vectors(0, count, [&](std::int64_t i, std::int64_t n) {
    largest = max(keep_first(load_some(x + i, n), n, -__builtin_inff()), largest);
  });
  const float top = max_lanes(largest);
  const float sum = sum_of(count, [&](std::int64_t i, std::int64_t n) {
    return keep_first(exp(load_some(x + i, n) - top), n, 0.0f);
  });
  return top + log(splat(sum))[0];
}

// Adds a token's numbers to `sums`. `best` has room for k indices.
void add_token(const Loss& loss, std::int64_t token, std::int32_t* best, float* sums) {
  const float* a = loss.row(loss.a, token);
  switch (loss.kind) {
    case RouterLoss::kGshard:
      top_k(a, loss.experts, 1, best);
      sums[loss.experts + best[0]] += 1;
      [[fallthrough]];
    case RouterLoss::kImportance:
      by_vectors(0, loss.experts, [&](std::int64_t i, std::int64_t n) {
        store_some(sums + i, load_some(sums + i, n) + load_some(a + i, n), n);
      });
      break;
    case RouterLoss::kLoad: {
      const float threshold = loss.row(loss.b, token)[threshold_index(loss, token, best)];
      const float inverse_sigma = 1.0f / loss.sigma;
      by_vectors(0, loss.experts, [&](std::int64_t i, std::int64_t n) {
        const Vec probability = normal_cdf((load_some(a + i, n) - threshold) * inverse_sigma);
        store_some(sums + i, load_some(sums + i, n) + probability, n);
      });
      break;
    }
    case RouterLoss::kZ: {
      const float lse = log_sum_exp(a, loss.experts);
      sums[0] += lse * lse;
      break;
    }
  }
}

// sums[group][loss.sums()] over the tokens of each group.
double* sums_of_groups(ThreadPool& pool, Scratch& scratch, const Loss& loss, std::int64_t groups) {
  const std::int64_t width = loss.sums(), blocks = ceil_div(loss.tokens, kBlockTokens);
  double* sums = scratch.stream().take<double>(groups * width);
  Arena::Frame frame(scratch.stream());
  float* partial = scratch.stream().take<float>(groups * blocks * width);
  for_rows(pool, groups * blocks, kBlockTokens * (4 * loss.experts), [&](std::int64_t block, int worker) {
    Arena& arena = scratch.worker(worker);
    Arena::Frame worker_frame(arena);
    std::int32_t* best = arena.take<std::int32_t>(larger<std::int64_t>(1, loss.k));
    float* block_sums = partial + block * width;
    for (std::int64_t i = 0; i < width; ++i) block_sums[i] = 0;
    const std::int64_t group = block / blocks, first = block % blocks * kBlockTokens;
    for (std::int64_t token = first; token < smaller(loss.tokens, first + kBlockTokens); ++token) {
      add_token(loss, group * loss.tokens + token, best, block_sums);
    }
  });
  for (std::int64_t group = 0; group < groups; ++group) {
    for (std::int64_t i = 0; i < width; ++i) {
      double sum = 0;
      for (std::int64_t block = 0; block < blocks; ++block)
        sum += static_cast<double>(partial[(group * blocks + block) * width + i]);
      sums[group * width + i] = sum;
    }
  }
  return sums;
}

struct Moments {
  double mean, variance;
};
Moments moments_of(const double* values, std::int64_t count) {
  double mean = 0, variance = 0;
  for (std::int64_t i = 0; i < count; ++i) mean += values[i] / static_cast<double>(count);
  for (std::int64_t i = 0; i < count; ++i)
    variance += (values[i] - mean) * (values[i] - mean) / static_cast<double>(count);
  return {mean, variance};
}

// Squared coefficient of variation, and its derivative by each value: 2 (v - mean) / (E mean^2) - 2 var / (E
// mean^3). Both come from the variance, not its root, so that balance has the gradient 0.
double squared_variation(const double* values, std::int64_t count) {
  const Moments m = moments_of(values, count);
  return m.variance == 0 ? 0 : m.variance / (m.mean * m.mean);
}

}  // namespace

void CpuKernels::run(const RouterLossForward& args) {
  const Loss loss = loss_of(args);
  const std::int64_t groups = args.shape.groups;
  const double tokens = static_cast<double>(loss.tokens), experts = static_cast<double>(loss.experts);
  Arena::Frame frame(scratch.stream());
  double* all = sums_of_groups(pool, scratch, loss, groups);
  for (std::int64_t group = 0; group < groups; ++group) {
    // A scale of the values, such as 1 / tokens of the load's mean, leaves the variation as it is.
    const double* sums = all + group * loss.sums();
    double value = 0;
    if (loss.kind == RouterLoss::kZ) {
      value = sums[0] / tokens;
    } else if (loss.kind == RouterLoss::kGshard) {
      for (std::int64_t e = 0; e < loss.experts; ++e) value += sums[e] * sums[loss.experts + e];
      value *= experts / (tokens * tokens);
    } else {
      value = squared_variation(sums, loss.experts);
    }
    args.losses.as<float>()[group] = static_cast<float>(value);
  }
}

void CpuKernels::run(const RouterLossBackward& args) {
  const Loss loss = loss_of(args);
  const std::int64_t groups = args.shape.groups, experts = loss.experts;
  const double tokens = static_cast<double>(loss.tokens);
  Arena::Frame frame(scratch.stream());
  // Derivative by the sums of `a` (importance, gshard) or of the probabilities (load), times dlosses.
  float* slope = scratch.stream().take<float>(groups * experts);
  if (loss.kind != RouterLoss::kZ) {
    const double* all = sums_of_groups(pool, scratch, loss, groups);
    for (std::int64_t group = 0; group < groups; ++group) {
      const double* sums = all + group * loss.sums();
      const double dloss = static_cast<double>(args.dlosses.as<float>()[group]);
      const Moments m = moments_of(sums, experts);
      for (std::int64_t e = 0; e < experts; ++e) {
        double derivative = 0;
        if (loss.kind == RouterLoss::kGshard) {
          derivative = static_cast<double>(experts) * sums[experts + e] / (tokens * tokens);
        } else if (m.variance != 0) {
          derivative =
              2 / (static_cast<double>(experts) * m.mean * m.mean) * (sums[e] - m.mean - m.variance / m.mean);
        }
        slope[group * experts + e] = static_cast<float>(dloss * derivative);
      }
    }
  }

  for_rows(pool, groups * loss.tokens, 4 * experts, [&](std::int64_t token, int worker) {
    Arena& arena = scratch.worker(worker);
    Arena::Frame worker_frame(arena);
    std::int32_t* best = arena.take<std::int32_t>(larger<std::int64_t>(1, loss.k));
    const std::int64_t group = token / loss.tokens;
    const float *a = loss.row(loss.a, token), *group_slope = slope + group * experts;
    float* da = args.da.as<float>() + token * experts;
    if (loss.kind == RouterLoss::kZ) {
      // d lse^2 / da = 2 lse softmax(a).
      const float lse = log_sum_exp(a, experts);
      const float factor =
          static_cast<float>(2 * static_cast<double>(args.dlosses.as<float>()[group]) / tokens) * lse;
      by_vectors(0, experts, [&](std::int64_t i, std::int64_t n) {
        store_some(da + i, factor * exp(load_some(a + i, n) - lse), n);
      });
    } else if (loss.kind == RouterLoss::kLoad) {
      const std::int32_t index = threshold_index(loss, token, best);
      const float threshold = loss.row(loss.b, token)[index], inverse_sigma = 1.0f / loss.sigma;
      const float moved = sum_of(experts, [&](std::int64_t i, std::int64_t n) {
        const Vec z = (load_some(a + i, n) - threshold) * inverse_sigma;
        const Vec derivative = load_some(group_slope + i, n) * normal_pdf(z) * inverse_sigma;
        store_some(da + i, derivative, n);
        return derivative;
      });
      da[index] -= moved;  // the threshold moves with its own logit
    } else {
      by_vectors(0, experts, [&](std::int64_t i, std::int64_t n) {
        store_some(da + i, load_some(group_slope + i, n), n);
      });
    }
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
