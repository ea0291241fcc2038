// Optimiser steps over all parameters at once, in place.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "core/tensor.h"

namespace softmoe::ops {

// One entry a parameter in every list; `copies` are the bfloat16 twins or absent.
void adamw_step(const std::vector<Tensor>& values, const std::vector<Tensor>& gradients,
                const std::vector<Tensor>& first_moments, const std::vector<Tensor>& second_moments,
                const std::vector<std::optional<Tensor>>& copies, const std::vector<double>& learning_rates,
                const std::vector<double>& weight_decays, double beta1, double beta2, double eps,
                std::int64_t step, const std::optional<Tensor>& gradient_scale);
void sgd_step(const std::vector<Tensor>& values, const std::vector<Tensor>& gradients,
              const std::vector<Tensor>& momenta, const std::vector<std::optional<Tensor>>& copies,
              const std::vector<double>& learning_rates, const std::vector<double>& weight_decays,
              double momentum, bool nesterov, const std::optional<Tensor>& gradient_scale);
// Returns the global norm and the factor that clips it to max_norm (0: no clipping), float32 scalars.
std::tuple<Tensor, Tensor> global_norm(const std::vector<Tensor>& tensors, double max_norm);

}  // namespace softmoe::ops
