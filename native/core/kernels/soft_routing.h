// Soft MoE routing (Puigcerver et al., "From Sparse to Soft Mixtures of Experts", Algorithms 1 and 2).
//
//   logits[b, m, j] = scale * xhat[b, m] . phihat[:, j] (+ noise)
//   D = softmax over tokens m (per sequence and slot), C = softmax over all slots j (per token)
//   slots[b, j] = sum_m D[b, m, j] x[b, m]        y[b, m] = sum_j C[b, m, j] slots_out[b, j]
//
// D and C are never stored: D = exp(logits - dispatch_lse[b, j]), C = exp(logits - combine_lse[b, m]).
// Slot j = expert * slots_per_expert + p. Slot rows are expert-major over the whole batch:
// slots [experts][batch * slots_per_expert][dim], row b * slots_per_expert + p of expert e.
#pragma once

#include "core/kernels/elementwise.h"

namespace softmoe {

struct SoftRoutingShape {
  std::int64_t batch = 0, tokens = 0, dim = 0, experts = 0, slots_per_expert = 0;
  std::int64_t slots() const { return experts * slots_per_expert; }
};

// How the weights of one side are made. Uniform: 1 / (valid tokens) for dispatch, 1 / slots for combine.
// Identity: token m and slot j belong together iff m = j modulo min(tokens, slots); a slot takes the mean of
// its tokens, a token the mean of its slots.
enum class RoutingWeights : std::uint8_t { kSoft, kUniform, kIdentity };

enum class RoutingSide : std::uint8_t { kDispatch, kCombine };

// What the weights are made from. With mask[b, m] = 0 token m has D = 0 and C = 0 (so no output and no
// gradient); a sequence without valid tokens has D = 0 everywhere. logits, both lse: float32; null unless
// weights are kSoft.
struct SoftRouting {
  SoftRoutingShape shape;
  RoutingWeights dispatch = RoutingWeights::kSoft, combine = RoutingWeights::kSoft;
  Buffer logits;        // [batch, tokens, slots]
  Buffer dispatch_lse;  // [batch, slots], over the valid tokens; +infinity if there is none
  Buffer combine_lse;   // [batch, tokens]
  Buffer mask;          // int32 [batch, tokens] or null
};

// Writes logits, both lse, token_norm [batch, tokens] and slot_norm [slots] (inverse norms, float32) in one
// pass over the logits. x [batch, tokens, dim] float32 or bfloat16, phi [dim, slots] float32, scale float32
// [1]. eps_inside_root: 1 / sqrt(sum of squares + eps) (official code), else 1 / (norm + eps) (paper,
// Algorithm 2). Noise: + noise_std * normal(key, (b * tokens + m) * slots + j).
struct SoftLogitsForward {
  static constexpr const char* kName = "soft_logits";
  SoftRouting routing;  // its logits and lse buffers are written
  Buffer x, phi, scale, token_norm, slot_norm;
  double eps = 1e-6;
  bool eps_inside_root = true;
  double noise_std = 0;
  RandomKey key;
};

// slots[e][b * P + p] = sum_m W[b, m, j] x[b, m] with W = D or C by `side`. (Dispatch; gradient of combine.)
struct TokensToSlots {
  static constexpr const char* kName = "tokens_to_slots";
  SoftRouting routing;
  RoutingSide side = RoutingSide::kDispatch;
  Buffer x, slots;
};

// y[b, m] = sum_j W[b, m, j] slots[j] (+ y when accumulate) with W = D or C. (Combine; gradient of dispatch.)
struct SlotsToTokens {
  static constexpr const char* kName = "slots_to_tokens";
  SoftRouting routing;
  RoutingSide side = RoutingSide::kCombine;
  Buffer slots, y;
  bool accumulate = false;
};

// weights [batch, tokens, slots] (float32) = D or C, for inspection.
struct SoftWeights {
  static constexpr const char* kName = "soft_weights";
  SoftRouting routing;
  RoutingSide side = RoutingSide::kDispatch;
  Buffer weights;
};

// dlogits (float32, [batch, tokens, slots]; added to when accumulate) =
//     D (x . dslots_in - slots_in . dslots_in)      if dslots_in is given and dispatch is soft
//   + C (dy . slots_out - y . dy)                   if dy is given and combine is soft
// The row dots stand for the inner sums of the two softmax gradients.
struct SoftLogitsGradient {
  static constexpr const char* kName = "soft_logits_gradient";
  SoftRouting routing;
  Buffer x, slots_in, dslots_in;  // dispatch side
  Buffer dy, y, slots_out;        // combine side
  Buffer dlogits;
  bool accumulate = false;
};

// From dlogits: dx (x's dtype; added to when accumulate_dx; null if not wanted), dphi [dim, slots] and dscale
// [1] (float32). Phi columns are normalised with slot_norm, tokens with token_norm as SoftLogitsForward made
// them.
struct SoftLogitsBackward {
  static constexpr const char* kName = "soft_logits_backward";
  SoftRoutingShape shape;
  Buffer x, phi, scale, token_norm, slot_norm, dlogits, dx, dphi, dscale;
  double eps = 1e-6;
  bool eps_inside_root = true;
  bool accumulate_dx = false;
};

}  // namespace softmoe
