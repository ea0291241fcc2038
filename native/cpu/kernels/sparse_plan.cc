// Sparsity-constrained quadratic transport plans (Liu, Puigcerver and Blondel, "Sparsity-constrained optimal
// transport", ICLR 2023) by Adam on the semi-dual, whose variable alpha has one element a row.
//
// With rows i, columns j, row sums a, column sums b, x_j = alpha + similarity[:, j]:
//   column j of the plan = b_j * the point of the simplex with at most k non-zeros that is nearest to x_j /
//   (gamma b_j) gradient = row sums of the plan - a
// The nearest point keeps the k largest (ties: the lower index) and takes max(0, t - tau) with tau such that
// they sum to 1. The columns cost `rows` operations a digit of the selection and are done in parallel;
// float64 throughout, as the steps of Adam are close to signs of the gradient and would magnify rounding.
#include <cstdint>

#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/selection.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

struct SemiDual {
  std::int64_t rows, columns, k;  // k = rows: no constraint
  double row_sum, column_sum, gamma;
  const double* similarity;  // [columns][rows]
  double* plan;              // [columns][rows]
  double *alpha, *gradient;  // [rows]
};

// Turns `values` into max(0, values - tau), summing to 1. tau is found by dropping what falls to 0 until
// nothing does.
void project_on_simplex(double* values, std::int64_t count) {
  double tau = -__builtin_inf();
  for (std::int64_t held = -1;;) {
    double sum = 0;
    std::int64_t above = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      if (!(values[i] > tau)) continue;
      sum += values[i];
      ++above;
    }
    if (above == held || above == 0) break;
    held = above;
    tau = (sum - 1) / static_cast<double>(above);
  }
  for (std::int64_t i = 0; i < count; ++i) values[i] = values[i] > tau ? values[i] - tau : 0;
}

void update_column(const SemiDual& problem, std::int64_t column, Arena& arena) {
  const std::int64_t rows = problem.rows, k = problem.k;
  const double* similarity = problem.similarity + column * rows;
  double* plan = problem.plan + column * rows;
  const double factor = 1 / (problem.gamma * problem.column_sum);
  for (std::int64_t i = 0; i < rows; ++i) plan[i] = (problem.alpha[i] + similarity[i]) * factor;
  if (k < rows) {
    Arena::Frame frame(arena);
    std::uint64_t* keys = arena.take<std::uint64_t>(rows);
    std::int32_t* kept = arena.take<std::int32_t>(k);
    double* values = arena.take<double>(k);
    for (std::int64_t i = 0; i < rows; ++i) keys[i] = order_key(plan[i]);
    select_largest(keys, rows, k, kept);
    for (std::int64_t i = 0; i < k; ++i) values[i] = plan[kept[i]];
    project_on_simplex(values, k);
    for (std::int64_t i = 0; i < rows; ++i) plan[i] = 0;
    for (std::int64_t i = 0; i < k; ++i) plan[kept[i]] = values[i];
  } else {
    project_on_simplex(plan, rows);
  }
  for (std::int64_t i = 0; i < rows; ++i) plan[i] *= problem.column_sum;
}

void update_plan(ThreadPool& pool, Scratch& scratch, const SemiDual& problem) {
  for_rows(pool, problem.columns, 8 * problem.rows,
           [&](std::int64_t column, int worker) { update_column(problem, column, scratch.worker(worker)); });
}

// Returns the Euclidean norm of the gradient.
double update_gradient(ThreadPool& pool, const SemiDual& problem) {
  pool.parallel_for(problem.rows, row_grain(problem.columns), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) problem.gradient[i] = -problem.row_sum;
    for (std::int64_t column = 0; column < problem.columns; ++column) {
      const double* plan = problem.plan + column * problem.rows;
      for (std::int64_t i = begin; i < end; ++i) problem.gradient[i] += plan[i];
    }
  });
  double squares = 0;
  for (std::int64_t i = 0; i < problem.rows; ++i) squares += problem.gradient[i] * problem.gradient[i];
  return __builtin_sqrt(squares);
}

}  // namespace

void CpuKernels::run(const SparsePlan& args) {
  const std::int64_t tokens = args.shape.tokens, experts = args.shape.experts;
  const double share = static_cast<double>(tokens) / static_cast<double>(experts);
  SemiDual problem{};
  problem.rows = args.by_rows ? experts : tokens;
  problem.columns = args.by_rows ? tokens : experts;
  problem.k = args.k > 0 ? smaller(args.k, problem.rows) : problem.rows;
  problem.row_sum = args.by_rows ? share : 1;
  problem.column_sum = args.by_rows ? 1 : share;
  problem.gamma = args.gamma;

  Arena::Frame frame(scratch.stream());
  Arena& arena = scratch.stream();
  const std::int64_t rows = problem.rows;
  double* similarity = arena.take<double>(tokens * experts);
  problem.similarity = similarity;
  problem.plan = arena.take<double>(tokens * experts);
  problem.alpha = arena.take<double>(rows);
  problem.gradient = arena.take<double>(rows);
  double *first = arena.take<double>(rows), *second = arena.take<double>(rows);
  // Element (s, e) of a group lies here in similarity and plan.
  const auto place = [&](std::int64_t s, std::int64_t e) {
    return args.by_rows ? s * experts + e : e * tokens + s;
  };

  for (std::int64_t group = 0; group < args.shape.groups; ++group) {
    const float* given = args.similarity.as<float>() + group * tokens * experts;
    float* result = args.plan.as<float>() + group * tokens * experts;
    for (std::int64_t s = 0; s < tokens; ++s) {
      for (std::int64_t e = 0; e < experts; ++e)
        similarity[place(s, e)] = static_cast<double>(given[s * experts + e]);
    }
    for (std::int64_t i = 0; i < rows; ++i) problem.alpha[i] = first[i] = second[i] = 0;

    constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;
    double power1 = 1, power2 = 1;
    for (std::int64_t iteration = 0; iteration < args.iterations; ++iteration) {
      update_plan(pool, scratch, problem);
      const double norm = update_gradient(pool, problem);
      power1 *= kBeta1;
      power2 *= kBeta2;
      for (std::int64_t i = 0; i < rows; ++i) {
        const double g = problem.gradient[i];
        first[i] = kBeta1 * first[i] + (1 - kBeta1) * g;
        second[i] = kBeta2 * second[i] + (1 - kBeta2) * g * g;
        problem.alpha[i] -= args.learning_rate * (first[i] / (1 - power1)) /
                            (__builtin_sqrt(second[i] / (1 - power2)) + kEps);
      }
      // The step is taken also when the gradient before it was small enough.
      if (norm <= args.tolerance) break;
    }
    update_plan(pool, scratch, problem);
    for (std::int64_t s = 0; s < tokens; ++s) {
      for (std::int64_t e = 0; e < experts; ++e)
        result[s * experts + e] = static_cast<float>(problem.plan[place(s, e)]);
    }
  }
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
