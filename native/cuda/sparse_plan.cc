// Sparsity-constrained transport plans: kernels/sparse_plan.cu.
#include <algorithm>

#include "cuda/cuda_kernels.h"
#include "cuda/kernels/sparse_plan_params.h"

namespace softmoe::cuda {

namespace {
constexpr std::int64_t kSharedRows = 8192;  // of a column in shared memory: 72 KiB
}

void CudaKernels::run(const SparsePlan& args) {
  const std::int64_t groups = args.shape.groups, tokens = args.shape.tokens, experts = args.shape.experts;
  if (groups == 0 || tokens == 0) return;
  const double share = static_cast<double>(tokens) / static_cast<double>(experts);
  const std::int64_t rows = args.by_rows ? experts : tokens, columns = args.by_rows ? tokens : experts;
  const std::int64_t elements = groups * tokens * experts;
  const bool in_shared = rows <= kSharedRows;
  const Workspace plan = launcher_.workspace_of<double>(elements);
  const Workspace dropped = launcher_.workspace(in_shared ? 0 : static_cast<std::size_t>(elements));
  // A column of the problem lies together: by columns the tensors are turned over, once.
  const Workspace turned = launcher_.workspace_of<float>(args.by_rows ? 0 : 2 * elements);
  const Buffer similarity = args.by_rows ? args.similarity : turned.buffer(DType::kFloat32);
  const Buffer result = args.by_rows ? args.plan : Buffer{turned.as<float>() + elements, DType::kFloat32};
  if (!args.by_rows) run(Transpose{args.similarity, similarity, groups, tokens, experts});
  const Workspace state = launcher_.workspace_of<double>(3 * groups * rows);
  const Workspace done = launcher_.workspace_of<std::int32_t>(groups);
  launcher_.clear(state.as<void>(), static_cast<std::size_t>(3 * groups * rows) * sizeof(double));
  launcher_.clear(done.as<void>(), static_cast<std::size_t>(groups) * sizeof(std::int32_t));

  SemiDual p{};
  p.similarity = similarity.as<float>();
  p.result = result.as<float>();
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
  p.in_shared = in_shared;
  const std::size_t shared_bytes = in_shared ? static_cast<std::size_t>(rows) * (sizeof(double) + 1) : 0;
  double power1 = 1, power2 = 1;
  for (std::int64_t iteration = 0; iteration < args.iterations; ++iteration) {
    power1 *= 0.9;
    power2 *= 0.999;
    p.correction1 = 1 - power1;
    p.correction2 = 1 - power2;
    launcher_.launch("sparse_plan", "sparse_plan_columns", {groups * columns}, 256, shared_bytes, p);
    launcher_.launch("sparse_plan", "sparse_plan_step", {groups}, 256, 0, p);
  }
  p.is_last = true;
  launcher_.launch("sparse_plan", "sparse_plan_columns", {groups * columns}, 256, shared_bytes, p);
  if (!args.by_rows) run(Transpose{result, args.plan, groups, experts, tokens});
}

}  // namespace softmoe::cuda
