// Arguments of the kernels in transport_plans.cu.
#pragma once

#include <cstdint>

namespace softmoe::cuda {

struct Sinkhorn {
  const float* logits;
  float* plan;
  float* f;  // [groups, tokens], and
  float* g;  // [groups, experts]; both null: in shared memory
  std::int32_t tokens, experts, iterations;
  bool aligned;  // rows of logits and g, to four elements
};

struct SinkhornGradient {
  const float* plan;
  const float* dplan;
  float* dlogits;
  double* inverse_rows;  // [groups, tokens]: 1 / row sums of the plan
  double* row_products;  // [groups, tokens]: row sums of plan * dplan
  double* mu;            // [groups, experts]
  double* schur;         // [groups, experts - 1, experts - 1], or null: in shared memory
  std::int32_t tokens, experts;
  std::int32_t tile_rows;  // tokens that are brought through shared memory together
};

}  // namespace softmoe::cuda
