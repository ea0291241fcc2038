// Kernels that are not written yet: they fault when they run. A family's lines go away when its file arrives.
#include "core/error.h"
#include "cpu/kernels/cpu_kernels.h"

#define SOFTMOE_PENDING(kernel) \
  void CpuKernels::run(const kernel&) { throw Error("ERR_INTERNAL", "the CPU kernel is not written yet"); }

namespace softmoe::cpu::SOFTMOE_ISA {

// sparse_routing
SOFTMOE_PENDING(TokensChoice)
SOFTMOE_PENDING(ExpertsChoice)
SOFTMOE_PENDING(RowsFromTokensChoice)
SOFTMOE_PENDING(RowsFromExpertsChoice)
SOFTMOE_PENDING(GatherGates)
SOFTMOE_PENDING(GatherGatesBackward)
SOFTMOE_PENDING(NormalizeSelected)
SOFTMOE_PENDING(NormalizeSelectedBackward)
SOFTMOE_PENDING(CombineRows)
SOFTMOE_PENDING(CombineRowsBackward)
// router_losses
SOFTMOE_PENDING(RouterLossForward)
SOFTMOE_PENDING(RouterLossBackward)
// transport_plans
SOFTMOE_PENDING(SinkhornPlan)
SOFTMOE_PENDING(SinkhornPlanBackward)
SOFTMOE_PENDING(SparsePlan)

}  // namespace softmoe::cpu::SOFTMOE_ISA
