// Dense products: general batched matrix products and linear layers. Accumulators are float32.
#pragma once

#include "core/kernels/elementwise.h"

namespace softmoe {

// y[b] = alpha * op(a[b]) op(b[b]) (+ y[b] when accumulate): op(a) is [m, k], op(b) is [k, n].
// Stored a is [m, k], or [k, m] with transpose_a; b alike. a and b share a dtype; y is float32 or that dtype.
struct MatMul {
  static constexpr const char* kName = "matmul";
  Buffer a, b, y;
  std::int64_t batch = 0, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  double alpha = 1;
};

// pre = x w + bias, y = activation(pre). x [rows, in], w [in, out] (x's dtype), bias [out] float32 or null,
// y [rows, out] (x's dtype or float32). `pre` (x's dtype) is null when nobody needs it later.
struct LinearForward {
  static constexpr const char* kName = "linear";
  Buffer x, w, bias, pre, y;
  std::int64_t rows = 0, in = 0, out = 0;
  Activation activation = Activation::kNone;
};

// dx [rows, in] = dy [rows, out] w^T.
struct LinearBackwardInput {
  static constexpr const char* kName = "linear_backward_input";
  Buffer dy, w, dx;
  std::int64_t rows = 0, in = 0, out = 0;
};

// dw [in, out] (float32) = x^T dy; dbias [out] (float32, may be null) = column sums of dy.
struct LinearBackwardWeight {
  static constexpr const char* kName = "linear_backward_weight";
  Buffer x, dy, dw, dbias;
  std::int64_t rows = 0, in = 0, out = 0;
};

}  // namespace softmoe
