// Soft MoE routing: logits with both softmaxes, dispatch, combine and their gradients.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace softmoe::ops {

// What the weights of a routing are made from; the tensors are absent where the weights are not soft.
struct SoftRoutingOperands {
  std::int64_t batch = 0, tokens = 0, experts = 0, slots_per_expert = 0;
  RoutingWeights dispatch = RoutingWeights::kSoft, combine = RoutingWeights::kSoft;
  std::optional<Tensor> logits, dispatch_lse, combine_lse, mask;
};

// x [batch, tokens, dim], phi [dim, slots], scale a float32 scalar, mask int32 [batch, tokens].
// Returns logits [batch, tokens, slots], dispatch_lse [batch, slots], combine_lse [batch, tokens],
// token_norm [batch, tokens] and slot_norm [slots], all float32.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_logits(
    const Tensor& x, const Tensor& phi, const Tensor& scale, const std::optional<Tensor>& mask,
    std::int64_t experts, double eps, bool eps_inside_root, double noise_std, const RandomKey& key);
// x [batch, tokens, dim] -> [experts, batch * slots_per_expert, dim].
Tensor tokens_to_slots(const SoftRoutingOperands& routing, RoutingSide side, const Tensor& x);
// [experts, batch * slots_per_expert, dim] -> [batch, tokens, dim].
Tensor slots_to_tokens(const SoftRoutingOperands& routing, RoutingSide side, const Tensor& slots);
// Float32 [batch, tokens, slots].
Tensor soft_weights(const SoftRoutingOperands& routing, RoutingSide side,
                    const std::shared_ptr<Device>& device);
// dlogits of the dispatch side (x, slots_in, dslots_in), the combine side (dy, y, slots_out), or both.
Tensor soft_logits_gradient(const SoftRoutingOperands& routing, const std::optional<Tensor>& x,
                            const std::optional<Tensor>& slots_in, const std::optional<Tensor>& dslots_in,
                            const std::optional<Tensor>& dy, const std::optional<Tensor>& y,
                            const std::optional<Tensor>& slots_out);
// Returns dx, dphi, dscale. With `dx_direct` the result is added to it in place and returned.
std::tuple<Tensor, Tensor, Tensor> soft_logits_backward(const Tensor& x, const Tensor& phi,
                                                        const Tensor& scale, const Tensor& token_norm,
                                                        const Tensor& slot_norm, const Tensor& dlogits,
                                                        std::int64_t experts, double eps,
                                                        bool eps_inside_root,
                                                        const std::optional<Tensor>& dx_direct);

}  // namespace softmoe::ops
