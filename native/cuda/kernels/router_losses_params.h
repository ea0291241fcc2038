// Arguments of the kernels in router_losses.cu.
#pragma once

#include <cstdint>

#include "core/kernels/sparse_routing.h"

namespace softmoe::cuda {

struct RouterLossArgs {
  const float* a;
  const float* b;
  float* token_value;          // [groups, tokens]: threshold (load) or log-sum-exp (z)
  std::int32_t* token_expert;  // [groups, tokens]: expert of the threshold (load), first choice (gshard)
  double* sums;                // [groups][2][experts]: of the summands, and of first choices
  float* losses;               // [groups] (forward)
  const float* dlosses;        // [groups] (backward)
  float* slope;                // [groups, experts] (backward)
  float* da;                   // [groups, tokens, experts] (backward)
  std::int32_t groups, tokens, experts, k;
  float sigma;
  RouterLoss loss;
  bool aligned;  // rows of experts, to four elements
};

}  // namespace softmoe::cuda
