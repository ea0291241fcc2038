// Auxiliary losses of routers: kernels/router_losses.cu.
#include "cuda/cuda_kernels.h"
#include "cuda/kernels/router_losses_params.h"
#include "cuda/products.h"

namespace softmoe::cuda {

namespace {

// What forward and backward have in common: the sums over the tokens of each group.
class RouterLossSums {
 public:
  template <class Args>
  RouterLossSums(Launcher& launcher, const Args& args)
      : token_value_(launcher.workspace_of<float>(args.shape.groups * args.shape.tokens)),
        token_expert_(launcher.workspace_of<std::int32_t>(args.shape.groups * args.shape.tokens)),
        sums_(launcher.workspace_of<double>(args.shape.groups * 2 * args.shape.experts)) {
    params.a = args.a.template as<float>();
    params.b = args.b.template as<float>();
    params.token_value = token_value_.as<float>();
    params.token_expert = token_expert_.as<std::int32_t>();
    params.sums = sums_.as<double>();
    params.groups = static_cast<std::int32_t>(args.shape.groups);
    params.tokens = static_cast<std::int32_t>(args.shape.tokens);
    params.experts = static_cast<std::int32_t>(args.shape.experts);
    params.k = static_cast<std::int32_t>(args.k);
    params.sigma = static_cast<float>(args.sigma);
    params.loss = args.loss;
    params.aligned = fours_are_aligned(args.a.data, args.shape.experts) &&
                     fours_are_aligned(args.b.data, args.shape.experts);
    const std::int64_t tokens = args.shape.groups * args.shape.tokens;
    if (args.loss != RouterLoss::kImportance) {
      launcher.launch("router_losses", "router_loss_tokens", {divide_up(tokens, 8)}, 256, 0, params);
    }
    launcher.launch("router_losses", "router_loss_sums",
                    {args.shape.groups * divide_up(args.shape.experts, 32)}, 256, 0, params);
  }

  RouterLossArgs params{};

 private:
  Workspace token_value_, token_expert_, sums_;
};

}  // namespace

void CudaKernels::run(const RouterLossForward& args) {
  RouterLossSums sums(launcher_, args);
  sums.params.losses = args.losses.as<float>();
  launcher_.launch("router_losses", "router_loss_finish", {divide_up(args.shape.groups, 8)}, 256, 0,
                   sums.params);
}

void CudaKernels::run(const RouterLossBackward& args) {
  RouterLossSums sums(launcher_, args);
  const Workspace slope = launcher_.workspace_of<float>(args.shape.groups * args.shape.experts);
  sums.params.dlosses = args.dlosses.as<float>();
  sums.params.slope = slope.as<float>();
  sums.params.da = args.da.as<float>();
  sums.params.aligned = sums.params.aligned && fours_are_aligned(args.da.data, args.shape.experts);
  launcher_.launch("router_losses", "router_loss_finish", {divide_up(args.shape.groups, 8)}, 256, 0,
                   sums.params);
  launcher_.launch("router_losses", "router_loss_gradient",
                   {divide_up(args.shape.groups * args.shape.tokens, 8)}, 256, 0, sums.params);
}

}  // namespace softmoe::cuda
