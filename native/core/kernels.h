// The kernels that every backend has. One argument struct a kernel; a backend that lacks one does not
// compile.
#pragma once

#include "core/kernels/attention.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/experts.h"
#include "core/kernels/frozen_experts.h"
#include "core/kernels/index_checks.h"
#include "core/kernels/linear.h"
#include "core/kernels/loss.h"
#include "core/kernels/normalization.h"
#include "core/kernels/optimizer.h"
#include "core/kernels/soft_routing.h"
#include "core/kernels/sparse_routing.h"

// X(family, kernel): `family` is the file of cpu/kernels and cuda/kernels that implements it.
#define SOFTMOE_KERNELS(X)                     \
  X(elementwise, Fill)                         \
  X(elementwise, Cast)                         \
  X(elementwise, Add)                          \
  X(elementwise, Multiply)                     \
  X(elementwise, Scale)                        \
  X(elementwise, StridedCopy)                  \
  X(elementwise, SumMiddle)                    \
  X(elementwise, BroadcastMiddle)              \
  X(elementwise, Activate)                     \
  X(elementwise, ActivateBackward)             \
  X(elementwise, Dropout)                      \
  X(elementwise, RandomFill)                   \
  X(elementwise, Transpose)                    \
  X(elementwise, Patchify)                     \
  X(elementwise, CountNonFinite)               \
  X(linear, MatMul)                            \
  X(linear, LinearForward)                     \
  X(linear, LinearBackwardInput)               \
  X(linear, LinearBackwardWeight)              \
  X(experts, ExpertsForward)                   \
  X(experts, ExpertsBackward)                  \
  X(frozen_experts, FreezeExperts)             \
  X(frozen_experts, FrozenExpertsForward)      \
  X(normalization, LayerNormForward)           \
  X(normalization, LayerNormBackward)          \
  X(normalization, L2NormalizeForward)         \
  X(normalization, L2NormalizeBackward)        \
  X(normalization, SoftmaxForward)             \
  X(normalization, SoftmaxBackward)            \
  X(attention, AttentionForward)               \
  X(attention, AttentionBackward)              \
  X(loss, CrossEntropyForward)                 \
  X(loss, CrossEntropyBackward)                \
  X(loss, ArgMax)                              \
  X(optimizer, AdamWStep)                      \
  X(optimizer, SgdStep)                        \
  X(optimizer, GlobalNorm)                     \
  X(soft_routing, SoftLogitsForward)           \
  X(soft_routing, TokensToSlots)               \
  X(soft_routing, SlotsToTokens)               \
  X(soft_routing, SoftWeights)                 \
  X(soft_routing, SoftLogitsGradient)          \
  X(soft_routing, SoftLogitsBackward)          \
  X(sparse_routing, TokensChoice)              \
  X(sparse_routing, ExpertsChoice)             \
  X(sparse_routing, RowsFromTokensChoice)      \
  X(sparse_routing, RowsFromExpertsChoice)     \
  X(sparse_routing, GatherGates)               \
  X(sparse_routing, GatherGatesBackward)       \
  X(sparse_routing, NormalizeSelected)         \
  X(sparse_routing, NormalizeSelectedBackward) \
  X(sparse_routing, CombineRows)               \
  X(sparse_routing, CombineRowsBackward)       \
  X(router_losses, RouterLossForward)          \
  X(router_losses, RouterLossBackward)         \
  X(transport_plans, SinkhornPlan)             \
  X(transport_plans, SinkhornPlanBackward)     \
  X(transport_plans, SparsePlan)

namespace softmoe {

class Kernels {
 public:
  virtual ~Kernels() = default;
#define SOFTMOE_DECLARE(family, kernel) virtual void run(const kernel& args) = 0;
  SOFTMOE_KERNELS(SOFTMOE_DECLARE)
#undef SOFTMOE_DECLARE

  virtual SafeRowLists checked(const RowListCheck& check) = 0;
  virtual SafeSelection checked(const SelectionCheck& check) = 0;
};

}  // namespace softmoe
