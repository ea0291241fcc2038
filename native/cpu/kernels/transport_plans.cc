// Entropic transport plans by Sinkhorn steps in the log domain, and their implicit gradient.
//
//   f = 0; repeat g_e = ln(S/E) - lse_s(L + f), f_s = -lse_e(L + g); plan = exp(L + f + g)
//
// After a step over the rows the plan's rows sum to 1, so with C_e = sum over s of the plan
//   lse_s(L + f) = ln C_e - g_e, hence the next g_e = g_e + ln(S/E) - ln C_e:
// one pass and one exponential an element and iteration. Where C_e underflows, g_e is made anew in the log
// domain. Sums over tokens go by blocks of kBlockTokens, then over the blocks in ascending order.
#include <cstdint>

#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/vector_math.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

constexpr std::int64_t kBlockTokens = 64;
constexpr float kSmallestColumn = 1e-30f;  // below, terms of the sum may have underflowed

// One group of tokens: logits and plan [tokens, experts].
struct Transport {
  std::int64_t tokens, experts;
  const float* logits;
  float* plan;
  float *f, *g, *column_sums, *partial;  // [tokens], [experts], [experts], [blocks][experts]

  std::int64_t blocks() const { return ceil_div(tokens, kBlockTokens); }
};

float logarithm_of(float x) { return log(splat(x))[0]; }

// g_e = ln(S/E) - lse_s(L + f) for one expert.
float column_potential(const Transport& t, std::int64_t expert) {
  const float infinity = __builtin_inff();
  float top = -infinity;
  for (std::int64_t s = 0; s < t.tokens; ++s) {
    const float v = t.logits[s * t.experts + expert] + t.f[s];
    top = v > top ? v : top;
  }
  double sum = 0;
  for (std::int64_t s = 0; s < t.tokens; ++s) {
    sum += static_cast<double>(exp(splat(t.logits[s * t.experts + expert] + t.f[s] - top))[0]);
  }
  const float share = static_cast<float>(t.tokens) / static_cast<float>(t.experts);
  return logarithm_of(share) - (top + logarithm_of(static_cast<float>(sum)));
}

// f from g for the rows of a block, their plan, and the block's column sums.
void update_rows(const Transport& t, std::int64_t block) {
  const float infinity = __builtin_inff();
  float* sums = t.partial + block * t.experts;
  for (std::int64_t e = 0; e < t.experts; ++e) sums[e] = 0;
  const std::int64_t first = block * kBlockTokens;
  for (std::int64_t s = first; s < smaller(t.tokens, first + kBlockTokens); ++s) {
    const float* logits = t.logits + s * t.experts;
    float* plan = t.plan + s * t.experts;
    Vec largest = splat(-infinity);
    by_vectors(0, t.experts, [&](std::int64_t i, std::int64_t n) {
      largest = max(keep_first(load_some(logits + i, n) + load_some(t.g + i, n), n, -infinity), largest);
    });
    const float top = max_lanes(largest);
    const float total = sum_of(t.experts, [&](std::int64_t i, std::int64_t n) {
      const Vec weight = keep_first(exp(load_some(logits + i, n) + load_some(t.g + i, n) - top), n, 0.0f);
      store_some(plan + i, weight, n);
      return weight;
    });
    t.f[s] = -(top + logarithm_of(total));
    const float factor = 1.0f / total;
    by_vectors(0, t.experts, [&](std::int64_t i, std::int64_t n) {
      const Vec p = load_some(plan + i, n) * factor;
      store_some(plan + i, p, n);
      store_some(sums + i, load_some(sums + i, n) + p, n);
    });
  }
}

void sinkhorn(ThreadPool& pool, const Transport& t, std::int64_t iterations) {
  const std::int64_t blocks = t.blocks();
  const float log_share = logarithm_of(static_cast<float>(t.tokens) / static_cast<float>(t.experts));
  for (std::int64_t s = 0; s < t.tokens; ++s) t.f[s] = 0;
  for (std::int64_t e = 0; e < t.experts; ++e) t.column_sums[e] = 0;
  for (std::int64_t iteration = 0; iteration < iterations; ++iteration) {
    for_rows(pool, t.experts, 16 * t.tokens, [&](std::int64_t e, int) {
      if (t.column_sums[e] < kSmallestColumn) {
        t.g[e] = column_potential(t, e);
      } else {
        t.g[e] += log_share - logarithm_of(t.column_sums[e]);
      }
    });
    for_rows(pool, blocks, kBlockTokens * (8 * t.experts),
             [&](std::int64_t block, int) { update_rows(t, block); });
    for (std::int64_t e = 0; e < t.experts; ++e) t.column_sums[e] = 0;
    for (std::int64_t block = 0; block < blocks; ++block) {
      for (std::int64_t e = 0; e < t.experts; ++e) t.column_sums[e] += t.partial[block * t.experts + e];
    }
  }
}

// body(group, arena) for all groups: side by side when there are enough, else one after the other with
// parallel loops inside, which run on their own thread in the first case.
template <class Body>
void for_groups(ThreadPool& pool, Scratch& scratch, std::int64_t groups, const Body& body) {
  if (groups < pool.threads()) {
    for (std::int64_t group = 0; group < groups; ++group) {
      Arena::Frame frame(scratch.stream());
      body(group, scratch.stream());
    }
    return;
  }
  pool.parallel_for(groups, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t group = begin; group < end; ++group) {
      Arena::Frame frame(scratch.worker(worker));
      body(group, scratch.worker(worker));
    }
  });
}

// Solves A x = b for a symmetric, positive (semi-)definite A [n, n] by its Cholesky factor, which replaces A.
// A direction without curvature gets 0: there any value solves.
void solve_in_place(double* a, double* x, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) {
    const double diagonal = a[j * n + j];
    double pivot = diagonal;
    for (std::int64_t k = 0; k < j; ++k) pivot -= a[j * n + k] * a[j * n + k];
    const bool is_flat = !(pivot > 1e-12 * diagonal);
    const double inverse = is_flat ? 0 : 1 / __builtin_sqrt(pivot);
    a[j * n + j] = inverse;
    for (std::int64_t i = j + 1; i < n; ++i) {
      double value = a[i * n + j];
      for (std::int64_t k = 0; k < j; ++k) value -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = value * inverse;
    }
  }
  for (std::int64_t i = 0; i < n; ++i) {
    double value = x[i];
    for (std::int64_t k = 0; k < i; ++k) value -= a[i * n + k] * x[k];
    x[i] = value * a[i * n + i];
  }
  for (std::int64_t i = n; i-- > 0;) {
    double value = x[i];
    for (std::int64_t k = i + 1; k < n; ++k) value -= a[k * n + i] * x[k];
    x[i] = value * a[i * n + i];
  }
}

}  // namespace

void CpuKernels::run(const SinkhornPlan& args) {
  const std::int64_t tokens = args.shape.tokens, experts = args.shape.experts;
  for_groups(pool, scratch, args.shape.groups, [&](std::int64_t group, Arena& arena) {
    Transport t{tokens,
                experts,
                args.logits.as<float>() + group * tokens * experts,
                args.plan.as<float>() + group * tokens * experts,
                arena.take<float>(tokens),
                arena.take<float>(experts),
                arena.take<float>(experts),
                nullptr};
    t.partial = arena.take<float>(t.blocks() * experts);
    sinkhorn(pool, t, args.iterations);
  });
}

// With Q = dplan, W = plan * Q and row and column sums a, b of the plan, the multipliers of the two
// constraints solve
//   a_s lambda_s + sum over e of plan_se mu_e = sum over e of W_se, and alike for the columns;
// dlogits = plan (Q - lambda_s - mu_e). Elimination of lambda leaves the Schur complement
//   (diag(b) - plan^T diag(1/a) plan) mu = W^T 1 - plan^T diag(1/a) W 1,
// singular along constants: the last mu is 0.
void CpuKernels::run(const SinkhornPlanBackward& args) {
  const std::int64_t tokens = args.shape.tokens, experts = args.shape.experts, free = experts - 1;
  for_groups(pool, scratch, args.shape.groups, [&](std::int64_t group, Arena& arena) {
    const float* plan = args.plan.as<float>() + group * tokens * experts;
    const float* dplan = args.dplan.as<float>() + group * tokens * experts;
    float* dlogits = args.dlogits.as<float>() + group * tokens * experts;
    double* inverse_a = arena.take<double>(tokens);
    double* row_w = arena.take<double>(tokens);  // W 1
    double* mu = arena.take<double>(experts);
    double* schur = arena.take<double>(free * free);
    for_rows(pool, tokens, experts, [&](std::int64_t s, int) {
      double sum = 0, weighted = 0;
      for (std::int64_t e = 0; e < experts; ++e) {
        const double p = static_cast<double>(plan[s * experts + e]);
        sum += p;
        weighted += p * static_cast<double>(dplan[s * experts + e]);
      }
      inverse_a[s] = sum > 0 ? 1 / sum : 0;
      row_w[s] = weighted;
    });
    for_rows(pool, free, tokens * free, [&](std::int64_t e, int) {
      double column = 0, right = 0;
      double* row = schur + e * free;
      for (std::int64_t i = 0; i < free; ++i) row[i] = 0;
      for (std::int64_t s = 0; s < tokens; ++s) {
        const double p = static_cast<double>(plan[s * experts + e]), scaled = p * inverse_a[s];
        column += p;
        right += p * static_cast<double>(dplan[s * experts + e]) - scaled * row_w[s];
        for (std::int64_t i = 0; i < free; ++i) row[i] -= scaled * static_cast<double>(plan[s * experts + i]);
      }
      row[e] += column;
      mu[e] = right;
    });
    solve_in_place(schur, mu, free);
    mu[free] = 0;
    for_rows(pool, tokens, experts, [&](std::int64_t s, int) {
      double lambda = row_w[s];
      for (std::int64_t e = 0; e < experts; ++e) lambda -= static_cast<double>(plan[s * experts + e]) * mu[e];
      lambda *= inverse_a[s];
      for (std::int64_t e = 0; e < experts; ++e) {
        const std::int64_t i = s * experts + e;
        dlogits[i] = static_cast<float>(static_cast<double>(plan[i]) *
                                        (static_cast<double>(dplan[i]) - lambda - mu[e]));
      }
    });
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
