// The batched expert MLP.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace softmoe::ops {

// Without `offsets`, x is [experts, rows, dim]. With `offsets` (int32 [experts + 1]) rows are ragged and
// expert-major, and `gather` (int32 [max_rows]) names the row of x [tokens, dim] that each of them reads.
// Weights w1 [experts, dim, hidden], b1 [experts, hidden], w2 [experts, hidden, out], b2 [experts, out].
// Returns y ([experts, rows, out], or [max_rows, out] when ragged) and, with `save_pre`, the pre-activations.
std::tuple<Tensor, std::optional<Tensor>> experts(const Tensor& x, const std::optional<Tensor>& offsets,
                                                  const std::optional<Tensor>& gather, const Tensor& w1,
                                                  const Tensor& b1, const Tensor& w2, const Tensor& b2,
                                                  Activation activation, double dropout_rate,
                                                  const RandomKey& key, bool save_pre);
// Returns dx (by expert row), dw1, db1, dw2, db2.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> experts_backward(
    const Tensor& x, const std::optional<Tensor>& offsets, const std::optional<Tensor>& gather,
    const Tensor& w1, const Tensor& w2, const Tensor& pre, const Tensor& dy, Activation activation,
    double dropout_rate, const RandomKey& key);

}  // namespace softmoe::ops
