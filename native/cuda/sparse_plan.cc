// Sparsity-constrained transport plans: kernels/sparse_plan.cu.
#include <algorithm>

#include "cuda/cuda_kernels.h"
#include "cuda/kernels/sparse_plan_params.h"

namespace softmoe::cuda {

void CudaKernels::run(const SparsePlan& args) {
  const std::int64_t groups = args.shape.groups, tokens = args.shape.tokens, experts = args.shape.experts;
  if (groups == 0 || tokens == 0) return;
  const double share = static_cast<double>(tokens) / static_cast<double>(experts);
  const std::int64_t rows = args.by_rows ? experts : tokens, columns = args.by_rows ? tokens : experts;
  const Workspace plan = launcher_.workspace_of<double>(groups * tokens * experts);
  const Workspace dropped = launcher_.workspace(static_cast<std::size_t>(groups * tokens * experts));
  const Workspace state = launcher_.workspace_of<double>(3 * groups * rows);
  const Workspace done = launcher_.workspace_of<std::int32_t>(groups);
  launcher_.clear(state.as<void>(), static_cast<std::size_t>(3 * groups * rows) * sizeof(double));
  launcher_.clear(done.as<void>(), static_cast<std::size_t>(groups) * sizeof(std::int32_t));

  SemiDual p{};
  p.similarity = args.similarity.as<float>();
  p.result = args.plan.as<float>();
  p.plan = plan.as<double>();
  p.dropped = dropped.as<bool>();
  p.alpha = state.as<double>();
  p.first_moment = p.alpha + groups * rows;
  p.second_moment = p.first_moment + groups * rows;
  p.done = done.as<std::int32_t>();
  p.row_sum = args.by_rows ? share : 1;
  p.column_sum = args.by_rows ? 1 : share;
  p.gamma = args.gamma;
  p.learning_rate = args.learning_rate;
  p.tolerance = args.tolerance;
  p.rows = static_cast<std::int32_t>(rows);
  p.columns = static_cast<std::int32_t>(columns);
  p.k = static_cast<std::int32_t>(args.k > 0 ? std::min(args.k, rows) : rows);
  p.experts = static_cast<std::int32_t>(experts);
  p.by_rows = args.by_rows;
  double power1 = 1, power2 = 1;
  for (std::int64_t iteration = 0; iteration < args.iterations; ++iteration) {
    power1 *= 0.9;
    power2 *= 0.999;
    p.correction1 = 1 - power1;
    p.correction2 = 1 - power2;
    launcher_.launch("sparse_plan", "sparse_plan_columns", {groups * columns}, 256, 0, p);
    launcher_.launch("sparse_plan", "sparse_plan_step", {groups}, 256, 0, p);
  }
  p.is_last = true;
  launcher_.launch("sparse_plan", "sparse_plan_columns", {groups * columns}, 256, 0, p);
}

}  // namespace softmoe::cuda
