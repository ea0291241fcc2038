#include <algorithm>
#include <array>
#include <numeric>

#include "core/kernels/sparse_routing.h"
#include "cpu/thread_pool.h"
#include "testing.h"

namespace softmoe::testing {
namespace {

constexpr DType kF32 = DType::kFloat32;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// Plan of one group in the log domain, the definition's way.
std::vector<double> sinkhorn(const std::vector<double>& logits, std::int64_t tokens, std::int64_t experts,
                             std::int64_t iterations) {
  std::vector<double> f(at(tokens)), g(at(experts)), plan(logits.size());
  const auto log_sum_exp = [](const std::vector<double>& values) {
    const double top = *std::max_element(values.begin(), values.end());
    double sum = 0;
    for (const double value : values) sum += std::exp(value - top);
    return top + std::log(sum);
  };
  for (std::int64_t iteration = 0; iteration < iterations; ++iteration) {
    for (std::int64_t e = 0; e < experts; ++e) {
      std::vector<double> column;
      for (std::int64_t s = 0; s < tokens; ++s) column.push_back(logits[at(s * experts + e)] + f[at(s)]);
      g[at(e)] = std::log(static_cast<double>(tokens) / static_cast<double>(experts)) - log_sum_exp(column);
    }
    for (std::int64_t s = 0; s < tokens; ++s) {
      std::vector<double> row;
      for (std::int64_t e = 0; e < experts; ++e) row.push_back(logits[at(s * experts + e)] + g[at(e)]);
      f[at(s)] = -log_sum_exp(row);
    }
  }
  for (std::int64_t s = 0; s < tokens; ++s) {
    for (std::int64_t e = 0; e < experts; ++e) {
      plan[at(s * experts + e)] = std::exp(logits[at(s * experts + e)] + f[at(s)] + g[at(e)]);
    }
  }
  return plan;
}

TEST(sinkhorn_plans_agree_with_double) {
  cpu::ThreadPool& pool = cpu::ThreadPool::instance();
  const int before = pool.threads();
  for_each_instruction_set([&](Kernels& kernels) {
    // At scale 60 columns underflow in the plan of the first steps.
    for (const double scale : {0.5, 3.0, 60.0}) {
      for (const auto& [groups, tokens, experts] :
           {std::array<std::int64_t, 3>{1, 1, 1}, {5, 33, 4}, {1, 300, 20}, {1, 10300, 2}}) {
        const Context context("scale " + std::to_string(scale) + " tokens " + std::to_string(tokens));
        const std::int64_t size = tokens * experts;
        const Values logits(kF32, normals(groups * size, 1, scale));
        std::vector<double> wanted;
        for (std::int64_t g = 0; g < groups; ++g) {
          std::vector<double> one;
          for (std::int64_t i = g * size; i < (g + 1) * size; ++i) one.push_back(logits[i]);
          for (const double p : sinkhorn(one, tokens, experts, 20)) wanted.push_back(p);
        }
        std::vector<Values> plans;
        for (const int threads : {1, 3}) {
          pool.set_threads(threads);
          Values plan(kF32, groups * size);
          kernels.run(SinkhornPlan{{groups, tokens, experts}, 20, logits.buffer(), plan.buffer()});
          CHECK_CLOSE(plan, wanted, scale > 10 ? 2e-4 : 1e-5);
          plans.push_back(plan);
        }
        pool.set_threads(before);
        CHECK(plans[0].same_bits(plans[1]));
      }
    }
  });
}

TEST(sinkhorn_gradient_agrees_with_differences_of_converged_plans) {
  for_each_instruction_set([](Kernels& kernels) {
    const std::int64_t groups = 2, tokens = 12, experts = 4, size = tokens * experts;
    const std::vector<double> logits = normals(groups * size, 2),
                              dplan = rounded(kF32, normals(groups * size, 3));
    std::vector<double> plans, wanted;
    for (std::int64_t g = 0; g < groups; ++g) {
      std::vector<double> one(logits.begin() + g * size, logits.begin() + (g + 1) * size);
      const auto objective = [&] {
        const std::vector<double> plan = sinkhorn(one, tokens, experts, 400);
        return std::inner_product(plan.begin(), plan.end(), dplan.begin() + g * size, 0.0);
      };
      for (const double p : sinkhorn(one, tokens, experts, 400)) plans.push_back(p);
      for (double& logit : one) {
        const double kept = logit, h = 1e-5;
        logit = kept + h;
        const double up = objective();
        logit = kept - h;
        wanted.push_back((up - objective()) / (2 * h));
        logit = kept;
      }
    }
    const Values plan(kF32, plans), dplans(kF32, dplan);
    Values dlogits(kF32, groups * size);
    kernels.run(
        SinkhornPlanBackward{{groups, tokens, experts}, plan.buffer(), dplans.buffer(), dlogits.buffer()});
    CHECK_CLOSE(dlogits, wanted, 1e-5);
  });
}

// Row and column multipliers by elimination of all of them at once: more experts than shared memory holds a
// system for.
TEST(sinkhorn_gradient_of_many_experts_solves_for_the_multipliers) {
  for_each_instruction_set([](Kernels& kernels) {
    const std::int64_t tokens = 90, experts = 72, unknowns = tokens + experts - 1;
    const Values plan(kF32, sinkhorn(normals(tokens * experts, 8), tokens, experts, 300));
    const Values dplan(kF32, normals(tokens * experts, 9));
    // The last column's multiplier is 0. Each row of the system ends with its right side.
    std::vector<std::vector<double>> system(at(unknowns), std::vector<double>(at(unknowns + 1)));
    for (std::int64_t s = 0; s < tokens; ++s) {
      for (std::int64_t e = 0; e < experts; ++e) {
        const double p = plan[s * experts + e], w = p * dplan[s * experts + e];
        system[at(s)][at(s)] += p;
        system[at(s)][at(unknowns)] += w;
        if (e == experts - 1) continue;
        system[at(s)][at(tokens + e)] = system[at(tokens + e)][at(s)] = p;
        system[at(tokens + e)][at(tokens + e)] += p;
        system[at(tokens + e)][at(unknowns)] += w;
      }
    }
    for (std::int64_t pivot = 0; pivot < unknowns; ++pivot) {
      for (std::int64_t row = 0; row < unknowns; ++row) {
        if (row == pivot) continue;
        const double factor = system[at(row)][at(pivot)] / system[at(pivot)][at(pivot)];
        for (std::int64_t c = pivot; c <= unknowns; ++c) {
          system[at(row)][at(c)] -= factor * system[at(pivot)][at(c)];
        }
      }
    }
    const auto multiplier = [&](std::int64_t i) {
      return i == unknowns ? 0.0 : system[at(i)][at(unknowns)] / system[at(i)][at(i)];
    };
    std::vector<double> wanted;
    for (std::int64_t s = 0; s < tokens; ++s) {
      for (std::int64_t e = 0; e < experts; ++e) {
        wanted.push_back(plan[s * experts + e] *
                         (dplan[s * experts + e] - multiplier(s) - multiplier(tokens + e)));
      }
    }
    Values dlogits(kF32, tokens * experts);
    kernels.run(SinkhornPlanBackward{{1, tokens, experts}, plan.buffer(), dplan.buffer(), dlogits.buffer()});
    CHECK_CLOSE(dlogits, wanted, 1e-5);
  });
}

TEST(sinkhorn_gradient_is_finite_where_an_expert_or_a_token_stands_alone) {
  for_each_instruction_set([](Kernels& kernels) {
    // Each token bound to its own expert: no link between them.
    const Values plan(kF32, {1, 0, 0, 0, 1, 0, 0, 0, 1}), dplan(kF32, normals(9, 4));
    Values dlogits(kF32, 9);
    kernels.run(SinkhornPlanBackward{{1, 3, 3}, plan.buffer(), dplan.buffer(), dlogits.buffer()});
    CHECK_CLOSE(dlogits, std::vector<double>(9, 0.0), 1e-6);
  });
}

// Point of the simplex with at most k non-zeros nearest to x, by sorting.
std::vector<double> project(const std::vector<double>& x, std::int64_t k) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] > x[b]; });
  order.resize(std::min(order.size(), at(k)));
  double sum = 0, tau = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    sum += x[order[i]];
    const double n = static_cast<double>(i + 1);
    if (1 / n + x[order[i]] - sum / n > 0) tau = (sum - 1) / n;
  }
  std::vector<double> y(x.size());
  for (const std::size_t i : order) y[i] = std::max(0.0, x[i] - tau);
  return y;
}

// similarity and plan [rows][columns].
std::vector<double> sparse_plan(const std::vector<double>& similarity, std::int64_t rows,
                                std::int64_t columns, double a, double b, std::int64_t k,
                                const SparsePlan& args) {
  std::vector<double> alpha(at(rows)), first(at(rows)), second(at(rows)), plan(similarity.size());
  const auto make_plan = [&] {
    for (std::int64_t j = 0; j < columns; ++j) {
      std::vector<double> x;
      for (std::int64_t i = 0; i < rows; ++i)
        x.push_back((alpha[at(i)] + similarity[at(i * columns + j)]) / (args.gamma * b));
      const std::vector<double> p = project(x, k);
      for (std::int64_t i = 0; i < rows; ++i) plan[at(i * columns + j)] = b * p[at(i)];
    }
  };
  for (std::int64_t step = 1; step <= args.iterations; ++step) {
    make_plan();
    double squares = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      double g = -a;
      for (std::int64_t j = 0; j < columns; ++j) g += plan[at(i * columns + j)];
      squares += g * g;
      first[at(i)] = 0.9 * first[at(i)] + 0.1 * g;
      second[at(i)] = 0.999 * second[at(i)] + 0.001 * g * g;
      alpha[at(i)] -= args.learning_rate * first[at(i)] / (1 - std::pow(0.9, static_cast<double>(step))) /
                      (std::sqrt(second[at(i)] / (1 - std::pow(0.999, static_cast<double>(step)))) + 1e-8);
    }
    if (std::sqrt(squares) <= args.tolerance) break;
  }
  make_plan();
  return plan;
}

TEST(sparse_plans_agree_with_a_projection_by_sorting) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const bool by_rows : {false, true}) {
      for (const std::int64_t k : {0, 2, 5}) {
        for (const auto& [groups, tokens, experts] :
             {std::array<std::int64_t, 3>{2, 24, 8}, {1, 90, 6}, {1, 8200, 2}}) {
          if (tokens > 90 && (by_rows || k > 0)) continue;
          const Context context("k " + std::to_string(k) + (by_rows ? " by rows" : " by columns"));
          const std::int64_t size = tokens * experts;
          std::vector<double> numbers = normals(groups * size, 5);
          for (double& number : numbers) number = 1 / (1 + std::exp(-number));
          const Values similarity(kF32, numbers);
          Values plan(kF32, groups * size);
          SparsePlan args;
          args.shape = {groups, tokens, experts};
          args.k = k;
          args.by_rows = by_rows;
          args.iterations = 60;
          args.similarity = similarity.buffer();
          args.plan = plan.buffer();
          kernels.run(args);
          const double share = static_cast<double>(tokens) / static_cast<double>(experts);
          const std::int64_t rows = by_rows ? experts : tokens, columns = by_rows ? tokens : experts;
          std::vector<double> wanted(numbers.size());
          for (std::int64_t g = 0; g < groups; ++g) {
            std::vector<double> one(at(size));
            const auto place = [&](std::int64_t s, std::int64_t e) {
              return at(by_rows ? e * tokens + s : s * experts + e);
            };
            for (std::int64_t s = 0; s < tokens; ++s) {
              for (std::int64_t e = 0; e < experts; ++e)
                one[place(s, e)] = similarity[g * size + s * experts + e];
            }
            one = sparse_plan(one, rows, columns, by_rows ? share : 1, by_rows ? 1 : share, k == 0 ? rows : k,
                              args);
            for (std::int64_t s = 0; s < tokens; ++s) {
              for (std::int64_t e = 0; e < experts; ++e)
                wanted[at(g * size + s * experts + e)] = one[place(s, e)];
            }
          }
          CHECK_CLOSE(plan, wanted, 1e-6);
          // The sums over the constrained side are exact, and no more than k are non-zero.
          for (std::int64_t g = 0; g < groups; ++g) {
            for (std::int64_t j = 0; j < columns; ++j) {
              double sum = 0;
              std::int64_t used = 0;
              for (std::int64_t i = 0; i < rows; ++i) {
                const double p = plan[g * size + (by_rows ? j * experts + i : i * experts + j)];
                sum += p;
                used += p > 0;
              }
              CHECK(std::fabs(sum - (by_rows ? 1 : share)) < 1e-5 * share);
              CHECK(k == 0 || used <= k);
            }
          }
        }
      }
    }
  });
}

TEST(sparse_plan_of_equal_similarities_stops_at_once) {
  for_each_instruction_set([](Kernels& kernels) {
    const Values similarity(kF32, std::vector<double>(20, 0.25));
    Values plan(kF32, 20);
    SparsePlan args;
    args.shape = {1, 5, 4};
    args.iterations = 500;
    args.similarity = similarity.buffer();
    args.plan = plan.buffer();
    kernels.run(args);
    CHECK_CLOSE(plan, std::vector<double>(20, 0.25), 1e-6);
  });
}

}  // namespace
}  // namespace softmoe::testing
