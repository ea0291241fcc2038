// Arguments of the kernels in normalization.cu and narrow_layer_norm.cu.
#pragma once

#include <cstdint>

#include "cuda/kernels/any_floats.h"

namespace softmoe::cuda {

struct LayerNormParams {
  AnyFloats x, y;
  AnyFloats scale, bias;  // float32 or absent
  float* mean;            // or null
  float* rstd;            // or null
  std::int64_t rows, dim;
  double eps;
};

struct LayerNormBackwardParams {
  AnyFloats x, dy, dx;
  AnyFloats scale;
  const float* mean;
  const float* rstd;
  std::int64_t rows, dim;
};

// parts[block][0][i] = sum of dy * xhat, parts[block][1][i] = sum of dy over the rows of a block; float64
// where rows are narrow.
struct LayerNormParameterParts {
  AnyFloats x, dy;
  const float* mean;
  const float* rstd;
  void* parts;
  std::int64_t rows, dim, blocks;
};
struct LayerNormParameterSums {
  const void* parts;
  float* dscale;  // or null
  float* dbias;   // or null
  std::int64_t dim, blocks;
};

struct L2NormalizeParams {
  AnyFloats x, y;
  float* inverse_norm;  // or null
  std::int64_t rows, dim;
  float eps;
};
struct L2NormalizeBackwardParams {
  AnyFloats x, dy, dx;
  const float* inverse_norm;
  std::int64_t rows, dim;
};

struct SoftmaxParams {
  AnyFloats x, y;
  float* log_sum_exp;  // or null
  std::int64_t rows, columns;
};
struct SoftmaxBackwardParams {
  AnyFloats y, dy, dx;
  std::int64_t rows, columns;
};

}  // namespace softmoe::cuda
