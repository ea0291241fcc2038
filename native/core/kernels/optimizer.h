// Optimiser steps over all parameters at once. Values, gradients and moments are float32.
#pragma once

#include <vector>

#include "core/dtype.h"

namespace softmoe {

struct OptimizedTensor {
  float* value = nullptr;
  const float* gradient = nullptr;
  float* first_moment = nullptr;   // Adam's m; SGD's momentum buffer
  float* second_moment = nullptr;  // Adam's v; null for SGD
  void* bfloat16_copy = nullptr;   // written in the same pass; may be null
  std::int64_t count = 0;
  double learning_rate = 0, weight_decay = 0;
};

// g = gradient * gradient_scale[0] (null: 1); m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
// value -= learning_rate * (m / correction1 / (sqrt(v / correction2) + eps) + weight_decay * value).
struct AdamWStep {
  static constexpr const char* kName = "adamw";
  std::vector<OptimizedTensor> tensors;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, correction1 = 1, correction2 = 1;
  Buffer gradient_scale;
};

// g = gradient * gradient_scale[0] + weight_decay * value; m = momentum m + g;
// value -= learning_rate * (nesterov ? g + momentum m : m).
struct SgdStep {
  static constexpr const char* kName = "sgd";
  std::vector<OptimizedTensor> tensors;
  double momentum = 0;
  bool nesterov = false;
  Buffer gradient_scale;
};

struct CountedBuffer {
  Buffer x;
  std::int64_t count = 0;
};

// norm[0] = sqrt(sum of squares of all tensors), in a fixed order; scale[0] = min(1, max_norm / norm), 1 when
// max_norm is 0, NaN when the norm is not finite. Both float32.
struct GlobalNorm {
  static constexpr const char* kName = "global_norm";
  std::vector<CountedBuffer> tensors;
  Buffer norm, scale;
  double max_norm = 0;
};

}  // namespace softmoe
