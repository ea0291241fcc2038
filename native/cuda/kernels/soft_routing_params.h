// Arguments of the kernels in soft_routing.cu and soft_routing_gradients.cu.
#pragma once

#include <cstdint>

#include "core/kernels/soft_routing.h"

namespace softmoe::cuda {

// The extents of a SoftRoutingShape.
struct SoftShape {
  std::int32_t batch, tokens, dim, slots, slots_per_expert;
};

// Weights of one side, [batch, tokens, slots]; what they are made from as in SoftRouting. `values`:
// log-sum-exp, or weight where the mode is not soft; [batch, slots] for dispatch, [batch, tokens] for combine
// (null there for the other modes, whose weights follow from the extents).
struct SideWeights {
  const float* logits;
  const float* values;
  const std::int32_t* mask;
  RoutingWeights mode;
  RoutingSide side;
  std::int32_t tokens, slots, period;  // min(tokens, slots)
  bool aligned;                        // rows of logits and values can be read four at a time
};

// values[b, j] of the dispatch weights that are not soft: 1 / number of valid tokens that meet slot j.
struct DispatchValues {
  float* values;
  const std::int32_t* mask;
  SoftShape shape;
  bool identity;
};

// slot_norm[j] of phi [dim, slots]. `parts`, [2][dim, slots] bfloat16 or null: phi = parts[0] + parts[1] to
// 16 bits.
struct SlotNorms {
  const float* phi;
  float* slot_norm;
  void* parts;
  std::int32_t dim, slots;
  float eps;
  bool eps_inside_root;
};

// Column statistics of a block of rows.
struct alignas(8) MaxAndSum {
  float max, sum;  // of exp(x - max)
};

struct SoftLogits {
  const void* x;
  const void* phi;  // float32 [dim, slots], or the bfloat16 parts
  const float* scale;
  const float* slot_norm;
  float* token_norm;
  float* logits;
  float* combine_lse;       // or null
  MaxAndSum* column_stats;  // [batch, row tiles, slots], or null
  const std::int32_t* mask;
  SoftShape shape;
  std::int32_t row_tiles;
  float eps, noise_std;
  RandomKey key;
  bool eps_inside_root, exact, x_aligned, phi_aligned, logits_aligned;
};

struct FinishDispatch {
  const MaxAndSum* column_stats;
  float* dispatch_lse;
  std::int32_t batch, row_tiles, slots;
};

// y[row] = sum of weights times rows of x: tokens to slots, or slots to tokens.
struct WeightedSum {
  SideWeights weights;
  const void* x;
  void* y;
  SoftShape shape;
  std::int32_t row_tiles, column_tiles;
  bool y_is_float, accumulate, exact, x_aligned, y_aligned;
};

struct WriteWeights {
  SideWeights weights;
  float* y;
  std::int32_t batch;
};

// dots[i] = a[row] . b[row] for i < count: row i, or with `slots` the row of slot i % slots of sequence i /
// slots.
struct RowDots {
  const void* a;
  const void* b;
  float* dots;
  std::int64_t count;
  SoftShape shape;
  bool of_slots, aligned;
};

// dlogits (+)= weight * (a b^T - dots) for either side; a null `a` leaves a side out.
struct LogitsGradientSide {
  SideWeights weights;
  const void* a;      // tokens: x or dy
  const void* b;      // slot rows: dslots_in or slots_out
  const float* dots;  // by slot (dispatch) or token (combine)
};
struct LogitsGradient {
  LogitsGradientSide sides[2];
  float* dlogits;
  SoftShape shape;
  std::int32_t row_tiles, column_tiles;
  bool accumulate, exact, operands_aligned;
};

// phihat = phi * slot_norm.
constexpr int kNormalizedRows = 64;  // of a block
struct NormalizeSlots {
  const float* phi;
  const float* slot_norm;
  float* phihat;
  std::int32_t dim, slots;
};

// From dxhat = dlogits phihat^T: dx, xhat = x * norm, and the token's part of dscale.
struct TokenGradient {
  const void* x;
  const float* dxhat;
  const float* scale;
  const float* token_norm;
  void* dx;     // or null
  float* xhat;  // [rows, dim]
  float* dscale_parts;
  std::int32_t rows, dim;
  bool eps_inside_root, accumulate, aligned;  // all operands, to four elements
};

// From dphihat = xhat^T dlogits: dphi.
struct SlotGradient {
  const float* phi;
  const float* dphihat;
  const float* scale;
  const float* slot_norm;
  float* dphi;
  std::int32_t dim, slots;
  bool eps_inside_root;
};

// y[0] = sum of x.
struct SumAll {
  const float* x;
  float* y;
  std::int64_t count;
};

}  // namespace softmoe::cuda
