// Row normalisations and row softmax. Statistics are float32.
#pragma once

#include "core/dtype.h"

namespace softmoe {

// y = (x - mean) * rstd * scale + bias, rstd = 1 / sqrt(var + eps), over the last axis. scale, bias float32
// or null; mean, rstd float32 [rows], saved for the backward (null in inference).
struct LayerNormForward {
  static constexpr const char* kName = "layer_norm";
  Buffer x, scale, bias, y, mean, rstd;
  std::int64_t rows = 0, dim = 0;
  double eps = 1e-6;
};

struct LayerNormBackward {
  static constexpr const char* kName = "layer_norm_backward";
  Buffer x, scale, mean, rstd, dy, dx, dscale, dbias;  // dscale, dbias float32 or null
  std::int64_t rows = 0, dim = 0;
};

// y = x * inverse_norm, inverse_norm[r] = 1 / sqrt(sum of squares + eps), float32 [rows].
struct L2NormalizeForward {
  static constexpr const char* kName = "l2_normalize";
  Buffer x, y, inverse_norm;
  std::int64_t rows = 0, dim = 0;
  double eps = 1e-6;
};

struct L2NormalizeBackward {
  static constexpr const char* kName = "l2_normalize_backward";
  Buffer x, inverse_norm, dy, dx;
  std::int64_t rows = 0, dim = 0;
};

// y = softmax(x) over the last axis; log_sum_exp float32 [rows] or null. A NaN logit counts as -infinity; a
// row of only -infinity gives zeros.
struct SoftmaxForward {
  static constexpr const char* kName = "softmax";
  Buffer x, y, log_sum_exp;
  std::int64_t rows = 0, columns = 0;
};

// dx = y * (dy - sum(y * dy)).
struct SoftmaxBackward {
  static constexpr const char* kName = "softmax_backward";
  Buffer y, dy, dx;
  std::int64_t rows = 0, columns = 0;
};

}  // namespace softmoe
