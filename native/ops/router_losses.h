// Auxiliary losses of the routers and transport plans.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace softmoe::ops {

// a, b [groups, tokens, experts] -> losses float32 [groups]; see core/kernels/sparse_routing.h.
Tensor router_loss(RouterLoss loss, const Tensor& a, const std::optional<Tensor>& b, std::int64_t k,
                   double sigma);
Tensor router_loss_backward(RouterLoss loss, const Tensor& a, const std::optional<Tensor>& b, std::int64_t k,
                            double sigma, const Tensor& dlosses);

Tensor sinkhorn_plan(const Tensor& logits, std::int64_t iterations);
Tensor sinkhorn_plan_backward(const Tensor& plan, const Tensor& dplan);
Tensor sparse_plan(const Tensor& similarity, std::int64_t k, bool by_rows, std::int64_t iterations);

}  // namespace softmoe::ops
