// Dense products and linear layers.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace softmoe::ops {

// op(a) op(b) over leading batch axes ([..., m, k] x [..., k, n]); the result has a's dtype or `dtype`.
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double alpha,
              DType dtype);

// x [..., in], w [in, out], bias [out] -> y [..., out] in `dtype`, and the pre-activation when `save_pre`.
std::tuple<Tensor, std::optional<Tensor>> linear(const Tensor& x, const Tensor& w,
                                                 const std::optional<Tensor>& bias, Activation activation,
                                                 bool save_pre, DType dtype);
// dy [..., out] -> dx [..., in] in w's dtype.
Tensor linear_backward_input(const Tensor& dy, const Tensor& w);
// -> dw [in, out], dbias [out], float32.
std::tuple<Tensor, std::optional<Tensor>> linear_backward_weight(const Tensor& x, const Tensor& dy,
                                                                 bool with_bias);

}  // namespace softmoe::ops
