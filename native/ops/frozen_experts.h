// Experts packed once for inference.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace softmoe::ops {

// Packs the float32 masters w1 [experts, dim, hidden], b1 [experts, hidden], w2 [experts, hidden, out], b2
// [experts, out]. Returns an opaque tensor; it serves the device that made it. CPU only.
Tensor freeze_experts(const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2,
                      WeightFormat format);
// As experts(), without dropout and without anything for a gradient; `frozen` is what freeze_experts made of
// weights of these extents.
Tensor frozen_experts(const Tensor& x, const std::optional<Tensor>& offsets,
                      const std::optional<Tensor>& gather, const Tensor& frozen, WeightFormat format,
                      std::int64_t num_experts, std::int64_t dim, std::int64_t hidden, std::int64_t out,
                      Activation activation);

}  // namespace softmoe::ops
