// Arguments of the kernels in loss.cu.
#pragma once

#include <cstdint>

#include "core/kernels/loss.h"
#include "cuda/kernels/any_floats.h"

namespace softmoe::cuda {

struct CrossEntropyParams {
  AnyFloats logits;
  const std::int32_t* labels;
  float* losses;
  std::int64_t rows, classes;
  CrossEntropyKind kind;
  float smoothing;
};

struct CrossEntropyBackwardParams {
  AnyFloats logits, dlogits;
  const std::int32_t* labels;
  const float* dlosses;
  std::int64_t rows, classes;
  CrossEntropyKind kind;
  float smoothing;
};

struct ArgMaxParams {
  AnyFloats x;
  std::int32_t* y;
  std::int64_t rows, columns;
};

}  // namespace softmoe::cuda
