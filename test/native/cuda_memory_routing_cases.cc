// Soft MoE routing, routing by index, routers' losses and transport plans.
#include <memory>

#include "cuda/cuda_device.h"
#include "cuda_memory_cases.h"

namespace softmoe::testing {

namespace {
constexpr DType kF32 = DType::kFloat32, kI32 = DType::kInt32;
}

namespace soft {

namespace {

// The routing of a Soft MoE layer, forward and backward.
void run_routing(DType dtype, const Shape& sizes, RoutingWeights weights) {
  Kernels& kernels = cuda_kernels();
  Operands operands;
  SoftRoutingShape shape;
  shape.batch = sizes.batch, shape.tokens = sizes.tokens, shape.dim = kDim;
  shape.experts = kExperts, shape.slots_per_expert = kSlotsPerExpert;
  const std::int64_t rows = shape.batch * shape.tokens, slot_rows = shape.batch * kSlots;
  const Buffer x = operands.random(dtype, rows * kDim), y = operands.result(dtype, rows * kDim);
  const Buffer xs = operands.result(dtype, slot_rows * kDim), phi = operands.random(kF32, kDim * kSlots);
  const Buffer scale = operands.all(kF32, 1, 1);
  const Buffer token_norm = operands.floats(rows), slot_norm = operands.floats(kSlots);
  SoftRouting routing;
  routing.shape = shape;
  routing.dispatch = routing.combine = weights;
  routing.logits = operands.floats(rows * kSlots);
  routing.dispatch_lse = operands.floats(slot_rows), routing.combine_lse = operands.floats(rows);
  if (weights == RoutingWeights::kSoft) {
    kernels.run(SoftLogitsForward{routing, x, phi, scale, token_norm, slot_norm, 1e-6, true, 0, {}});
  }
  kernels.run(SoftWeights{routing, RoutingSide::kCombine, operands.floats(rows * kSlots)});
  kernels.run(TokensToSlots{routing, RoutingSide::kDispatch, x, xs});
  kernels.run(SlotsToTokens{routing, RoutingSide::kCombine, xs, y});
  if (weights != RoutingWeights::kSoft) return;
  const Buffer dlogits = operands.floats(rows * kSlots), dy = operands.random(dtype, rows * kDim);
  kernels.run(SoftLogitsGradient{routing, x, xs, operands.random(dtype, slot_rows * kDim), dy, y,
                                 operands.random(dtype, slot_rows * kDim), dlogits});
  SoftLogitsBackward backward;
  backward.shape = shape, backward.x = x, backward.phi = phi, backward.scale = scale;
  backward.token_norm = token_norm, backward.slot_norm = slot_norm, backward.dlogits = dlogits;
  backward.dx = operands.random(dtype, rows * kDim), backward.dphi = operands.floats(kDim * kSlots);
  backward.dscale = operands.floats(1), backward.accumulate_dx = true;
  kernels.run(backward);
}

}  // namespace

void run_small(DType dtype) { run_routing(dtype, kSmall, RoutingWeights::kSoft); }
void run_large(DType dtype) { run_routing(dtype, kLarge, RoutingWeights::kSoft); }
void run_identity(DType dtype) { run_routing(dtype, kLarge, RoutingWeights::kIdentity); }

}  // namespace soft

namespace sparse {

namespace {

constexpr GroupShape kShape{kGroups, kTokens, kExperts};

RowLists row_lists(Operands& operands, std::int64_t max_rows) {
  return {operands.result(kI32, kExperts + 1), operands.result(kI32, max_rows),
          operands.result(kI32, kAll + 1), operands.result(kI32, max_rows), max_rows};
}

// Each token by two experts, all of them kept.
RowLists run_lists(Operands& operands, RoutingPriority priority) {
  Kernels& kernels = cuda_kernels();
  const Buffer gates = operands.random(kF32, kAll * kExperts);
  const Buffer expert = operands.result(kI32, kAssignments), position = operands.result(kI32, kAssignments);
  kernels.run(TokensChoice{kShape, kChoices, priority, gates, expert, position});
  kernels.run(NormalizeSelected{kShape, kChoices, gates, expert, operands.floats(kAll * kExperts)});
  const RowLists lists = row_lists(operands, kAssignments);
  kernels.run(RowsFromTokensChoice{kShape, kChoices, kTokens, expert, position, lists});
  kernels.run(GatherGates{kShape, gates, operands.floats(kAssignments), lists});
  return lists;
}

void run_combine_rows(DType dtype, std::int64_t dim) {
  Kernels& kernels = cuda_kernels();
  Operands operands;
  const RowLists lists = run_lists(operands, RoutingPriority::kTokenOrder);
  const Buffer rows = operands.random(dtype, kAssignments * dim), y = operands.result(dtype, kAll * dim);
  const Buffer gates = operands.random(kF32, kAssignments);
  kernels.run(CombineRows{kAll, kExperts, dim, rows, gates, y, lists});
  kernels.run(CombineRowsBackward{kAll, kExperts, dim, rows, gates, y,
                                  operands.result(dtype, kAssignments * dim), operands.floats(kAssignments),
                                  lists});
}

}  // namespace

void run_tokens_choice(DType dtype) {
  if (dtype != kF32) return;
  Operands operands;
  run_lists(operands, RoutingPriority::kSumOfGates);
}

void run_experts_choice(DType dtype) {
  if (dtype != kF32) return;
  Kernels& kernels = cuda_kernels();
  Operands operands;
  const Buffer token = operands.result(kI32, kChosen);
  kernels.run(ExpertsChoice{kShape, kCapacity, operands.random(kF32, kAll * kExperts), token});
  kernels.run(RowsFromExpertsChoice{kShape, kCapacity, token, row_lists(operands, kChosen)});
}

void run_combine(DType dtype) { run_combine_rows(dtype, kDim); }
void run_combine_long(DType dtype) { run_combine_rows(dtype, kLongDim); }

void run_checks(DType dtype) {
  if (dtype != kF32) return;
  Operands operands;
  const RowLists lists = run_lists(operands, RoutingPriority::kTokenOrder);
  const Buffer expert = operands.integers(kAssignments, kExperts);
  const Buffer position = operands.integers(kAssignments, kTokens);
  const std::shared_ptr<cuda::CudaDevice> device = cuda::CudaDevice::open(0);
  device->submit("checks", [&](Kernels& kernels) {
    kernels.checked(RowListCheck{"combine", lists, kExperts, kAll});
    kernels.checked(SelectionCheck{"rows", expert, position, kAll, kChoices, kExperts, false});
  });
  device->synchronize();
  device->close();
}

void run_losses(DType dtype) {
  if (dtype != kF32) return;
  Operands operands;
  const Buffer a = operands.random(kF32, kAll * kExperts), b = operands.random(kF32, kAll * kExperts);
  cuda_kernels().run(RouterLossBackward{kShape, RouterLoss::kLoad, kChoices, 1, a, b,
                                        operands.random(kF32, kGroups), operands.floats(kAll * kExperts)});
}

}  // namespace sparse

namespace plans {

namespace {
constexpr GroupShape kShape{kGroups, kTokens, kExperts};
constexpr std::int64_t kElements = kGroups * kTokens * kExperts;
}  // namespace

void run_sinkhorn(DType dtype) {
  if (dtype != kF32) return;
  Operands operands;
  const Buffer plan = operands.floats(kElements);
  cuda_kernels().run(SinkhornPlan{kShape, kIterations, operands.random(kF32, kElements), plan});
  cuda_kernels().run(
      SinkhornPlanBackward{kShape, plan, operands.random(kF32, kElements), operands.floats(kElements)});
}

void run_sparse(DType dtype) {
  if (dtype != kF32) return;
  Operands operands;
  SparsePlan args;
  args.shape = kShape, args.k = 16, args.iterations = kIterations, args.tolerance = 0;
  args.similarity = operands.random(kF32, kElements), args.plan = operands.floats(kElements);
  cuda_kernels().run(args);
}

}  // namespace plans

}  // namespace softmoe::testing
