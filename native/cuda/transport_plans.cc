// Entropic transport plans: kernels/transport_plans.cu.
#include "cuda/cuda_kernels.h"
#include "cuda/kernels/transport_plans_params.h"

namespace softmoe::cuda {

void CudaKernels::run(const SinkhornPlan& args) {
  const GroupShape& shape = args.shape;
  if (shape.tokens == 0) return;
  const Workspace f = launcher_.workspace_of<float>(shape.groups * shape.tokens);
  const Workspace g = launcher_.workspace_of<float>(shape.groups * shape.experts);
  launcher_.launch("transport_plans", "sinkhorn_plan", {shape.groups}, 1024, 0,
                   Sinkhorn{args.logits.as<float>(), args.plan.as<float>(), f.as<float>(), g.as<float>(),
                            static_cast<std::int32_t>(shape.tokens), static_cast<std::int32_t>(shape.experts),
                            static_cast<std::int32_t>(args.iterations)});
}

void CudaKernels::run(const SinkhornPlanBackward& args) {
  const GroupShape& shape = args.shape;
  if (shape.tokens == 0) return;
  const std::int64_t open = shape.experts - 1;
  const Workspace inverse_rows = launcher_.workspace_of<double>(shape.groups * shape.tokens);
  const Workspace row_products = launcher_.workspace_of<double>(shape.groups * shape.tokens);
  const Workspace mu = launcher_.workspace_of<double>(shape.groups * shape.experts);
  const Workspace schur = launcher_.workspace_of<double>(shape.groups * open * open);
  launcher_.launch("transport_plans", "sinkhorn_gradient", {shape.groups}, 1024, 0,
                   SinkhornGradient{args.plan.as<float>(), args.dplan.as<float>(), args.dlogits.as<float>(),
                                    inverse_rows.as<double>(), row_products.as<double>(), mu.as<double>(),
                                    schur.as<double>(), static_cast<std::int32_t>(shape.tokens),
                                    static_cast<std::int32_t>(shape.experts)});
}

}  // namespace softmoe::cuda
