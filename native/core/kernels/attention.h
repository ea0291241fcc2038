// Multi-head attention: o = softmax(scale * q k^T) v for each head.
#pragma once

#include "core/kernels/elementwise.h"

namespace softmoe {

// q, o [batch, queries, heads, head_dim]; k, v [batch, keys, heads, head_dim]; log_sum_exp float32
// [batch, heads, queries], saved for the backward (null in inference). Dropout acts on the probabilities:
// element index ((b * heads + h) * queries + i) * keys + j of `key`.
struct AttentionForward {
  static constexpr const char* kName = "attention";
  Buffer q, k, v, o, log_sum_exp;
  std::int64_t batch = 0, heads = 0, queries = 0, keys = 0, head_dim = 0;
  double scale = 1, dropout_rate = 0;
  RandomKey key;
};

struct AttentionBackward {
  static constexpr const char* kName = "attention_backward";
  Buffer q, k, v, o, log_sum_exp, d_o, dq, dk, dv;
  std::int64_t batch = 0, heads = 0, queries = 0, keys = 0, head_dim = 0;
  double scale = 1, dropout_rate = 0;
  RandomKey key;
};

}  // namespace softmoe
