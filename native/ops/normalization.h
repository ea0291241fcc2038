// Row normalisations and row softmax over the last axis.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace softmoe::ops {

// Returns y and, with `save_statistics`, mean and rstd (float32 [rows]).
std::tuple<Tensor, std::optional<Tensor>, std::optional<Tensor>> layer_norm(
    const Tensor& x, const std::optional<Tensor>& scale, const std::optional<Tensor>& bias, double eps,
    bool save_statistics);
// Returns dx, dscale, dbias (absent where the operand is).
std::tuple<Tensor, std::optional<Tensor>, std::optional<Tensor>> layer_norm_backward(
    const Tensor& x, const std::optional<Tensor>& scale, const Tensor& mean, const Tensor& rstd,
    const Tensor& dy, bool with_bias);
// Returns y and the inverse norms (float32 [rows]).
std::tuple<Tensor, Tensor> l2_normalize(const Tensor& x, double eps);
Tensor l2_normalize_backward(const Tensor& x, const Tensor& inverse_norm, const Tensor& dy);
Tensor softmax(const Tensor& x);
Tensor softmax_backward(const Tensor& y, const Tensor& dy);

}  // namespace softmoe::ops
