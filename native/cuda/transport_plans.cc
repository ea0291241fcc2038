// Entropic transport plans: kernels/transport_plans.cu.
#include <algorithm>

#include "cuda/cuda_kernels.h"
#include "cuda/kernels/transport_plans_params.h"
#include "cuda/products.h"

namespace softmoe::cuda {

namespace {
// Potentials and systems of at most this size stay in shared memory.
constexpr std::size_t kSharedPotentials = 40 * 1024, kSharedSystem = 32 * 1024;
constexpr std::int64_t kTileElements = 4096;  // of the plan, and as many of its gradient
}  // namespace

void CudaKernels::run(const SinkhornPlan& args) {
  const GroupShape& shape = args.shape;
  if (shape.tokens == 0) return;
  const auto bytes = static_cast<std::size_t>(shape.tokens + shape.experts) * sizeof(float);
  const bool in_shared = bytes <= kSharedPotentials;
  const Workspace f = launcher_.workspace_of<float>(in_shared ? 0 : shape.groups * shape.tokens);
  const Workspace g = launcher_.workspace_of<float>(in_shared ? 0 : shape.groups * shape.experts);
  launcher_.launch(
      "transport_plans", "sinkhorn_plan", {shape.groups}, 1024, in_shared ? bytes : 0,
      Sinkhorn{args.logits.as<float>(), args.plan.as<float>(), in_shared ? nullptr : f.as<float>(),
               in_shared ? nullptr : g.as<float>(), static_cast<std::int32_t>(shape.tokens),
               static_cast<std::int32_t>(shape.experts), static_cast<std::int32_t>(args.iterations),
               fours_are_aligned(args.logits.data, shape.experts)});
}

void CudaKernels::run(const SinkhornPlanBackward& args) {
  const GroupShape& shape = args.shape;
  if (shape.tokens == 0) return;
  const std::int64_t open = shape.experts - 1;
  const Workspace inverse_rows = launcher_.workspace_of<double>(shape.groups * shape.tokens);
  const Workspace row_products = launcher_.workspace_of<double>(shape.groups * shape.tokens);
  const Workspace mu = launcher_.workspace_of<double>(shape.groups * shape.experts);
  const auto system_bytes = static_cast<std::size_t>(open * open) * sizeof(double);
  const bool in_shared = system_bytes <= kSharedSystem;
  const Workspace schur = launcher_.workspace_of<double>(in_shared ? 0 : shape.groups * open * open);
  const std::int64_t tile_rows =
      std::min(shape.tokens, std::max<std::int64_t>(1, kTileElements / shape.experts));
  const std::size_t tile_bytes =
      static_cast<std::size_t>(tile_rows) *
      (2 * sizeof(double) + 2 * sizeof(float) * static_cast<std::size_t>(shape.experts));
  launcher_.launch(
      "transport_plans", "sinkhorn_gradient", {shape.groups}, 1024,
      tile_bytes + (in_shared ? system_bytes : 0),
      SinkhornGradient{args.plan.as<float>(), args.dplan.as<float>(), args.dlogits.as<float>(),
                       inverse_rows.as<double>(), row_products.as<double>(), mu.as<double>(),
                       in_shared ? nullptr : schur.as<double>(), static_cast<std::int32_t>(shape.tokens),
                       static_cast<std::int32_t>(shape.experts), static_cast<std::int32_t>(tile_rows)});
}

}  // namespace softmoe::cuda
