// Routing by index: Tokens Choice with capacity buffers (V-MoE, section 2), Experts Choice, and the plans of
// "Routers in Vision Mixture of Experts". Tokens are routed in groups; S = tokens of a group, E = experts,
// N = groups * S. Gates and plans are float32.
//
// A routing by index is a list of rows, expert-major: row r carries token row_token[r] to the expert that
// owns r. Within an expert rows are ordered by group, then buffer position. The token side holds for each
// token the rows it appears in (ascending), so that combining needs no atomics.
#pragma once

#include "core/kernels/elementwise.h"

namespace softmoe {

struct GroupShape {
  std::int64_t groups = 0, tokens = 0, experts = 0;
};

enum class RoutingPriority : std::uint8_t { kTokenOrder, kMaxGate, kSumOfGates };

// Top-k experts of each token (descending, ties to the lower expert, NaN counts as -infinity) and their
// places in the expert buffers. Places are given out choice by choice (all first choices before any second),
// in token order or, with a priority, by descending score (ties to the lower token); every assignment counts,
// also one that does not fit. expert, position int32 [groups, tokens, k].
struct TokensChoice {
  static constexpr const char* kName = "tokens_choice";
  GroupShape shape;
  std::int64_t k = 1;
  RoutingPriority priority = RoutingPriority::kTokenOrder;
  Buffer scores, expert, position;
};

// The `capacity` best tokens of each expert (descending score, ties to the lower token, NaN counts as
// -infinity). token int32 [groups, experts, capacity]: index within the group.
struct ExpertsChoice {
  static constexpr const char* kName = "experts_choice";
  GroupShape shape;
  std::int64_t capacity = 1;
  Buffer scores, token;
};

// Row lists of a routing by index, all int32: expert_offsets [experts + 1], row_token [max_rows],
// token_offsets [N + 1], token_rows [max_rows]. Entries past the last row are -1.
struct RowLists {
  Buffer expert_offsets, row_token, token_offsets, token_rows;
  std::int64_t max_rows = 0;
};

// From Tokens Choice: assignment (token, choice) is a row iff its position < capacity. max_rows >= rows.
struct RowsFromTokensChoice {
  static constexpr const char* kName = "rows_from_tokens_choice";
  GroupShape shape;
  std::int64_t k = 1, capacity = 1;
  Buffer expert, position;
  RowLists lists;
};

// From Experts Choice: every (expert, place) is a row; max_rows = groups * experts * capacity.
struct RowsFromExpertsChoice {
  static constexpr const char* kName = "rows_from_experts_choice";
  GroupShape shape;
  std::int64_t capacity = 1;
  Buffer token;
  RowLists lists;
};

// row_gate[r] (float32 [max_rows]) = gates[row_token[r], expert of r]; 0 past the last row.
struct GatherGates {
  static constexpr const char* kName = "gather_gates";
  GroupShape shape;
  Buffer gates, row_gate;
  RowLists lists;
};

// dgates [N, experts] = 0, then dgates[row_token[r], expert of r] = drow_gate[r].
struct GatherGatesBackward {
  static constexpr const char* kName = "gather_gates_backward";
  GroupShape shape;
  Buffer drow_gate, dgates;
  RowLists lists;
};

// Renormalised gates: y[n, e] = gates[n, e] / sum of the k gates that token n selected, for selected e; 0
// elsewhere. expert int32 [N, k].
struct NormalizeSelected {
  static constexpr const char* kName = "normalize_selected";
  GroupShape shape;
  std::int64_t k = 1;
  Buffer gates, expert, y;
};

struct NormalizeSelectedBackward {
  static constexpr const char* kName = "normalize_selected_backward";
  GroupShape shape;
  std::int64_t k = 1;
  Buffer gates, expert, dy, dgates;
};

// y[n] = sum over the rows r of token n of row_gate[r] * rows[r] (row_gate null: 1). rows [max_rows, dim],
// y [tokens, dim], same dtype, summed in float32 in ascending row order. (Combine; gradient of the gather.)
struct CombineRows {
  static constexpr const char* kName = "combine_rows";
  std::int64_t tokens = 0, experts = 0, dim = 0;
  Buffer rows, row_gate, y;
  RowLists lists;
};

// drows[r] = row_gate[r] * dy[row_token[r]]; drow_gate[r] = dy[row_token[r]] . rows[r].
struct CombineRowsBackward {
  static constexpr const char* kName = "combine_rows_backward";
  std::int64_t tokens = 0, experts = 0, dim = 0;
  Buffer rows, row_gate, dy, drows, drow_gate;
  RowLists lists;
};

enum class RouterLoss : std::uint8_t { kImportance, kLoad, kGshard, kZ };

// losses[g] (float32 [groups]) of one auxiliary loss:
//   importance  CV^2 over experts of sum over tokens of a, a = clean gates
//   load        CV^2 over experts of mean over tokens of 1 - Phi((threshold - a) / sigma); a = clean logits,
//               b = noisy logits, threshold = the k-th largest of b in the token (V-MoE, appendix A)
//   gshard      experts * sum over e of (fraction of tokens with argmax a = e) * mean of a[:, e], a = gates
//   z           mean over tokens of logsumexp(a)^2, a = logits
// CV^2 = population variance / mean^2, 0 where the variance is 0.
struct RouterLossForward {
  static constexpr const char* kName = "router_loss";
  GroupShape shape;
  RouterLoss loss = RouterLoss::kImportance;
  std::int64_t k = 1;
  double sigma = 0;
  Buffer a, b, losses;
};

// da = dlosses[g] * d losses[g] / d a. For the load loss the threshold moves with a (noise is constant).
struct RouterLossBackward {
  static constexpr const char* kName = "router_loss_backward";
  GroupShape shape;
  RouterLoss loss = RouterLoss::kImportance;
  std::int64_t k = 1;
  double sigma = 0;
  Buffer a, b, dlosses, da;
};

// Entropic transport plan by `iterations` log-domain Sinkhorn steps: rows sum to 1, columns to S / E.
//   f = 0; repeat g_e = ln(S/E) - lse_s(L + f), f_s = -lse_e(L + g); plan = exp(L + f + g)
struct SinkhornPlan {
  static constexpr const char* kName = "sinkhorn";
  GroupShape shape;
  std::int64_t iterations = 20;
  Buffer logits, plan;
};

// Implicit gradient at convergence: solves the (E - 1) x (E - 1) Schur complement in float64.
struct SinkhornPlanBackward {
  static constexpr const char* kName = "sinkhorn_backward";
  GroupShape shape;
  Buffer plan, dplan, dlogits;
};

// Sparsity-constrained quadratic transport plan by `iterations` Adam steps on the semi-dual (Liu, Puigcerver
// and Blondel, "Sparsity-constrained optimal transport"): at most k non-zeros a column (k = 0: no
// constraint), or a row with `by_rows`. Stops when the gradient's norm is at most `tolerance`.
struct SparsePlan {
  static constexpr const char* kName = "sparse_plan";
  GroupShape shape;
  std::int64_t k = 0, iterations = 20;
  bool by_rows = false;
  double gamma = 1, learning_rate = 1e-2, tolerance = 1e-3;
  Buffer similarity, plan;
};

}  // namespace softmoe
