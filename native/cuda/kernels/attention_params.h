// Arguments of the kernels in attention.cu, attention_gradients.cu and narrow_attention.cu.
#pragma once

#include <cstdint>

#include "core/kernels/elementwise.h"
#include "cuda/kernels/any_floats.h"

namespace softmoe::cuda {

// q, o and their gradients [batch, queries, heads, dim]; k, v and theirs [batch, keys, heads, dim].
struct AttentionParams {
  const void* q;
  const void* k;
  const void* v;
  void* o;
  float* log_sum_exp;  // [batch, heads, queries]; null in inference
  const void* d_o;
  const float* row_dots;  // o . d_o, [batch, heads, queries]
  void* dq;
  void* dk;
  void* dv;
  double* statistics;  // narrow heads: [batch, heads, queries][3], maximum, sum, p . dp
  std::int32_t heads, queries, keys, dim;
  std::int32_t tiles;       // blocks of a head
  std::int64_t head_count;  // batch * heads
  double scale;
  double dropout_rate;
  RandomKey key;
  bool aligned;  // rows of all operands begin at multiples of 16 bytes
};

struct AttentionRowDots {
  AnyFloats o, d_o;
  float* row_dots;
  std::int64_t rows;  // batch * queries * heads
  std::int32_t heads, queries, dim;
};

}  // namespace softmoe::cuda
