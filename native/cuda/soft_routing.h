// What the host sides of the Soft MoE kernels share.
#pragma once

#include "core/kernels/soft_routing.h"
#include "cuda/kernels/soft_routing_params.h"
#include "cuda/launch.h"

namespace softmoe::cuda {

inline SoftShape soft_shape(const SoftRoutingShape& shape) {
  return {static_cast<std::int32_t>(shape.batch), static_cast<std::int32_t>(shape.tokens),
          static_cast<std::int32_t>(shape.dim), static_cast<std::int32_t>(shape.slots()),
          static_cast<std::int32_t>(shape.slots_per_expert)};
}

// The weights of one side as kernels take them, with the memory behind those that are not soft.
class PreparedWeights {
 public:
  PreparedWeights(Launcher& launcher, const SoftRouting& routing, RoutingSide side);
  const SideWeights& get() const { return weights_; }

 private:
  SideWeights weights_{};
  Workspace values_;
};

}  // namespace softmoe::cuda
