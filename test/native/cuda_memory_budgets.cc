// A row a kernel: what it must read and write once, in bytes. Where its algorithm reads something again, the
// formula says how often. An element that is picked or placed alone costs a sector of 32 bytes. No formula:
// the kernels for narrow models, which compute in float64 and take their few operands from the cache again
// and again.
#include "cuda_memory_budgets.h"

#include "cuda_memory_cases.h"

namespace softmoe::testing {
namespace {

using Bytes = std::int64_t;

constexpr Bytes kSector = 32;
constexpr Bytes tiles(Bytes count, Bytes size) { return (count + size - 1) / size; }

// A block reads its rows of a once and its columns of b once.
constexpr Bytes row_product(Bytes s, Bytes rows, Bytes depth, Bytes columns, Bytes tile) {
  return (rows * depth * tiles(columns, 128) + depth * columns * tiles(rows, tile) + rows * columns) * s;
}
constexpr Bytes linear(Bytes s, Bytes rows, Bytes tile) {
  using namespace products;
  return row_product(s, rows, kIn, kOut, tile);
}
constexpr Bytes linear_input(Bytes s, Bytes rows, Bytes tile) {
  using namespace products;
  return row_product(s, rows, kOut, kIn, tile);
}
// Tiles of 64 x 128 over all rows.
constexpr Bytes column_product(Bytes s, Bytes rows, Bytes m, Bytes n) {
  return rows * (m * tiles(n, 128) + n * tiles(m, 64)) * s;
}

// Tiles of 128 x 128, with the results and the column sums.
constexpr Bytes wide_column_product(Bytes s, Bytes rows, Bytes m, Bytes n) {
  return rows * (m * tiles(n, 128) + n * tiles(m, 128)) * s + (m + 1) * n * 4;
}

// Forward: the activation's argument and value are written. Backward: the hidden units' gradient reads the
// argument and writes its value and the gradient.
constexpr Bytes experts_forward(Bytes s, Bytes rows, Bytes tile) {
  using namespace products;
  const Bytes up = row_product(s, rows, kDim, kHidden, tile) + rows * kHidden * s + kHidden * 4;
  return kExperts * (up + row_product(s, rows, kHidden, kDim, tile) + kDim * 4);
}
constexpr Bytes experts_backward(Bytes s, Bytes rows, Bytes tile) {
  using namespace products;
  const Bytes hidden = row_product(s, rows, kDim, kHidden, tile) + 2 * rows * kHidden * s;
  return kExperts * (hidden + row_product(s, rows, kHidden, kDim, tile));
}

// A block owns rows of one side once, with what comes of them, and streams the other side: `own` and
// `streamed` count the operands and results. Long float32 heads have blocks of 32 rows, all others of 64.
constexpr Bytes own_rows(Bytes s, Bytes dim) { return s == 4 && dim == 256 ? 32 : 64; }
constexpr Bytes owns_queries(Bytes s, Bytes dim, Bytes own) {
  using namespace attention;
  return kHeadCount * (own * kQueries + 2 * kKeys * tiles(kQueries, own_rows(s, dim))) * dim * s;
}
constexpr Bytes owns_keys(Bytes s, Bytes dim, Bytes own) {
  using namespace attention;
  return kHeadCount * (own * kKeys + 2 * kQueries * tiles(kKeys, own_rows(s, dim))) * dim * s;
}
// Log-sum-exps and dots of the queries.
constexpr Bytes kStatistics = attention::kHeadCount * attention::kQueries * 4;

// Logits and the other operand for each block of M x N results.
constexpr Bytes dispatch(Bytes s, const soft::Shape& at, Bytes m, Bytes n) {
  using namespace soft;
  const Bytes blocks = at.batch * tiles(kSlots, m) * tiles(kDim, n);
  return blocks * at.tokens * (m * 4 + n * s) + at.batch * kSlots * kDim * s;
}
constexpr Bytes combine(Bytes s, const soft::Shape& at, Bytes m, Bytes n) {
  using namespace soft;
  const Bytes tokens = at.batch * at.tokens;
  return tokens * kSlots * 4 * tiles(kDim, n) + at.batch * tiles(at.tokens, m) * kSlots * kDim * s +
         tokens * kDim * s;
}

namespace e = elementwise;
namespace r = rows;
namespace sp = sparse;

constexpr Bytes kSoftTokens = soft::kLarge.batch * soft::kLarge.tokens;
constexpr Bytes kSoftSlotRows = soft::kLarge.batch * soft::kSlots;
constexpr Bytes kSoftTiles = soft::kLarge.batch * tiles(soft::kLarge.tokens, 64);
constexpr Bytes kPhi = soft::kDim * soft::kSlots;

}  // namespace

const std::vector<MemoryWorkload>& memory_workloads() {
  static const std::vector<MemoryWorkload> workloads = {
      {"elementwise",
       e::run,
       {
           {"fill", [](Bytes s) { return e::kCount * s; }},
           {"cast_floats", [](Bytes) { return e::kCount * 6; }},
           {"cast_integers", [](Bytes s) { return e::kCount * (s + 4); }},
           {"add", [](Bytes s) { return e::kCount * 3 * s; }},
           {"multiply", [](Bytes s) { return e::kCount * 3 * s; }},
           {"scale", [](Bytes s) { return e::kCount * 2 * s; }},
           {"activation", [](Bytes s) { return e::kCount * 2 * s; }},
           {"activation_backward", [](Bytes s) { return e::kCount * 3 * s; }},
           {"dropout", [](Bytes s) { return e::kCount * 2 * s; }},
           {"random_fill", [](Bytes s) { return e::kCount * s; }},
           {"count_non_finite", [](Bytes s) { return e::kCount * s; }},
       }},
      {"layouts",
       e::run_layouts,
       {
           {"strided_copy_16", [](Bytes s) { return e::kCount * 2 * s; }},
           {"strided_copy_4", [](Bytes s) { return e::kCount * 2 * s; }},
           {"strided_copy_2", [](Bytes s) { return e::kCount * 2 * s; }},
           {"sum_rows", [](Bytes s) { return e::kOuter * (e::kMiddle * s + 3 * 4) * e::kInner; }},
           {"sum_lines", [](Bytes s) { return e::kLines * e::kLineLength * s; }},
           // Of the sums of rows in blocks of 128 and of lines in blocks of 4096.
           {"sum_of_blocks",
            [](Bytes s) { return (e::kOuter * e::kInner + e::kLines) * (3 * 4 + s); }},
           {"broadcast", [](Bytes s) { return e::kOuter * e::kInner * (e::kMiddle + e::kMiddle / 16) * s; }},
           {"transpose_2", [](Bytes s) { return 2 * e::kRows * e::kColumns * s; }},
           {"transpose_4", [](Bytes s) { return 2 * e::kRows * e::kColumns * s; }},
           {"patchify", [](Bytes s) { return 2 * e::kPixels * s; }},
       }},
      // The parameters of a normalisation are read again for each row.
      {"rows",
       r::run,
       {
           {"layer_norm_warp", [](Bytes s) { return r::kRows * (r::kDim * (2 * s + 8) + 8); }},
           {"layer_norm_backward_warp", [](Bytes s) { return r::kRows * (r::kDim * (3 * s + 4) + 8); }},
           {"layer_norm_parameter_parts",
            [](Bytes s) { return r::kRows * (r::kDim * 2 * s + 8) + tiles(r::kRows, 64) * r::kDim * 8; }},
           {"layer_norm_parameter_sums", [](Bytes) { return (tiles(r::kRows, 64) + 1) * r::kDim * 8; }},
           {"l2_normalize_warp", [](Bytes s) { return r::kRows * (r::kDim * 2 * s + 4); }},
           {"l2_normalize_backward_warp", [](Bytes s) { return r::kRows * (r::kDim * 3 * s + 4); }},
           {"softmax_warp", [](Bytes s) { return r::kRows * (r::kDim * 2 * s + 4); }},
           {"softmax_backward_warp", [](Bytes s) { return r::kRows * r::kDim * 3 * s; }},
           {"cross_entropy_warp", [](Bytes s) { return r::kRows * (r::kDim * s + kSector + 8); }},
           {"cross_entropy_backward_warp", [](Bytes s) { return r::kRows * (r::kDim * 2 * s + 8); }},
           {"argmax_warp", [](Bytes s) { return r::kRows * (r::kDim * s + 4); }},
       }},
      {"long rows",
       r::run_long,
       {
           {"layer_norm_block", [](Bytes s) { return r::kLongRows * r::kLongDim * (2 * s + 8); }},
           {"layer_norm_backward_block", [](Bytes s) { return r::kLongRows * r::kLongDim * (3 * s + 4); }},
           {"l2_normalize_block", [](Bytes s) { return r::kLongRows * r::kLongDim * 2 * s; }},
           {"l2_normalize_backward_block", [](Bytes s) { return r::kLongRows * r::kLongDim * 3 * s; }},
           {"softmax_block", [](Bytes s) { return r::kLongRows * r::kLongDim * 2 * s; }},
           {"softmax_backward_block", [](Bytes s) { return r::kLongRows * r::kLongDim * 3 * s; }},
           {"cross_entropy_block", [](Bytes s) { return r::kLongRows * r::kLongDim * s; }},
           {"cross_entropy_backward_block", [](Bytes s) { return r::kLongRows * r::kLongDim * 2 * s; }},
           {"argmax_block", [](Bytes s) { return r::kLongRows * r::kLongDim * s; }},
       }},
      {"narrow rows",
       r::run_narrow,
       {
           {"narrow_layer_norm", [](Bytes) { return r::kNarrowRows * (r::kNarrowDim * 8 + 8); }, kAcrossRows},
           {"narrow_layer_norm_backward", [](Bytes) { return r::kNarrowRows * (r::kNarrowDim * 12 + 4); }, kAcrossRows},
           {"narrow_layer_norm_parameter_parts",
            [](Bytes) {
              return r::kNarrowRows * (r::kNarrowDim * 8 + 4) + tiles(r::kNarrowRows, 64) * r::kNarrowDim * 16;
            },
            kAcrossRows},
           {"narrow_layer_norm_parameter_sums",
            [](Bytes) { return tiles(r::kNarrowRows, 64) * r::kNarrowDim * 16 + r::kNarrowDim * 8; }},
       }},
      {"optimizer",
       optimizer::run,
       {
           {"adamw", [](Bytes) { return optimizer::kTensors * optimizer::kCount * 30; }},
           {"sgd", [](Bytes) { return optimizer::kTensors * optimizer::kCount * 22; }},
           {"sum_squares", [](Bytes) { return optimizer::kTensors * optimizer::kCount * 4; }},
           {"norm_of_squares", [](Bytes) { return optimizer::kTensors * tiles(optimizer::kCount, 4096) * 4; }},
       }},
      {"attention, heads of 64",
       attention::run_64,
       {
           {"attention_*_64", [](Bytes s) { return owns_queries(s, 64, 2) + kStatistics; }},
           {"attention_row_dots",
            [](Bytes s) { return attention::kHeadCount * attention::kQueries * (2 * 64 * s + 4); }},
           {"attention_queries_gradient_*_64", [](Bytes s) { return owns_queries(s, 64, 3) + 2 * kStatistics; }},
           {"attention_keys_gradient_*_64", [](Bytes s) { return owns_keys(s, 64, 4) + 2 * kStatistics * tiles(attention::kKeys, 64); }},
       }},
      {"attention, heads of 128",
       attention::run_128,
       {
           {"attention_*_128", [](Bytes s) { return owns_queries(s, 128, 2) + kStatistics; }},
           {"attention_queries_gradient_*_128", [](Bytes s) { return owns_queries(s, 128, 3) + 2 * kStatistics; }},
           {"attention_keys_gradient_*_128", [](Bytes s) { return owns_keys(s, 128, 4) + 2 * kStatistics * tiles(attention::kKeys, 64); }},
       }},
      {"attention, heads of 256",
       attention::run_256,
       {
           {"attention_*_256", [](Bytes s) { return owns_queries(s, 256, 2) + kStatistics; }},
           {"attention_queries_gradient_*_256",
            [](Bytes s) { return owns_queries(s, 256, 3) + 2 * kStatistics; }},
           {"attention_keys_gradient_*_256", [](Bytes s) { return owns_keys(s, 256, 3) + 2 * kStatistics; }},
           {"attention_values_gradient_*_256", [](Bytes s) { return owns_keys(s, 256, 2) + kStatistics; }},
       }},
      {"narrow attention",
       attention::run_narrow,
       {
           {"narrow_attention", nullptr},
           {"narrow_attention_queries_gradient", nullptr},
           {"narrow_attention_keys_gradient", nullptr},
       }},
      {"products of 16 rows",
       products::run_16,
       {
           {"row_product_nn_*_16", [](Bytes s) { return linear(s, 16, 16); }},
           {"row_product_nt_*_16", [](Bytes s) { return linear_input(s, 16, 16); }},
       }},
      {"products of 32 rows",
       products::run_32,
       {
           {"row_product_nn_*_32", [](Bytes s) { return linear(s, 32, 32); }},
       }},
      {"products of 64 rows",
       products::run_64,
       {
           {"row_product_nn_*_64", [](Bytes s) { return linear(s, 64, 64); }},
           {"row_product_nt_*_64", [](Bytes s) { return linear_input(s, 64, 64); }},
       }},
      {"products of 384 rows",
       products::run_384,
       {
           {"row_product_nn_*_128", [](Bytes s) { return linear(s, 384, 128); }},
           {"row_product_nt_*_128", [](Bytes s) { return linear_input(s, 384, 128); }},
       }},
      {"products of compute capability 9.0",
       products::run_wide,
       {
           {"wide_row_product_nn", [](Bytes s) { return linear(s, products::kWideRows, 128); }},
           {"wide_row_product_nt", [](Bytes s) { return linear_input(s, products::kWideRows, 128); }},
           {"wide_column_product",
            [](Bytes s) {
              using namespace products;
              return wide_column_product(s, kWideRows, kIn, kOut);
            }},
           {"wide_listed_column_product",
            [](Bytes s) {
              using namespace products;
              return kExperts * (wide_column_product(s, kWideRows, kDim, kHidden) +
                                 wide_column_product(s, kWideRows, kHidden, kDim));
            }},
           {"wide_listed_row_product_nn", [](Bytes s) { return experts_forward(s, products::kWideRows, 128); }},
           {"wide_listed_row_product_nt", [](Bytes s) { return experts_backward(s, products::kWideRows, 128); }},
       }},
      {"sums over rows",
       products::run_columns,
       {
           {"column_product_tn_*",
            [](Bytes s) {
              using namespace products;
              return column_product(s, 256, kIn, kOut) + kIn * kOut * 4 + kOut * 4;
            }},
           {"column_product_tt_*",
            [](Bytes s) {
              using namespace products;
              return column_product(s, 256, kIn, kOut) + kIn * kOut * 4;
            }},
       }},
      {"split sums over rows",
       products::run_splits,
       {
           {"sum_partials", [](Bytes) { return Bytes{64 * 128 + 128} * 3 * 4; }},
       }},
      {"experts of 16 rows",
       products::run_experts,
       {
           {"row_product_nn_*_16", [](Bytes s) { return experts_forward(s, products::kCapacity, 16); }},
           {"row_product_nt_*_16", [](Bytes s) { return experts_backward(s, products::kCapacity, 16); }},
           // float32 has no smaller tile.
           {"row_product_nt_*_64", [](Bytes s) { return experts_backward(s, products::kCapacity, 64); }},
           {"column_product_tn_*",
            [](Bytes s) {
              using namespace products;
              return kExperts * (column_product(s, kCapacity, kDim, kHidden) +
                                 column_product(s, kCapacity, kHidden, kDim) +
                                 (2 * kDim * kHidden + kDim + kHidden) * 4);
            }},
       }},
      {"ragged experts",
       products::run_ragged_experts,
       {
           // Two tiles of each expert, placed alone, in four launches.
           {"find_row_tiles", [](Bytes) { return 4 * products::kExperts * (2 * kSector + 8 + kSector); }},
           {"expert_drop_rows_*",
            [](Bytes s) { return products::kExperts * products::kLargeCapacity * products::kDim * 2 * s; }},
       }},
      {"narrow products",
       products::run_narrow,
       {
           {"narrow_row_product_nn", nullptr},
           {"narrow_row_product_nt", nullptr},
           {"narrow_column_product_tn", nullptr},
           {"narrow_column_product_tt", nullptr},
       }},
      {"Soft MoE routing, small tiles",
       soft::run_small,
       {
           {"soft_tokens_to_slots_small_*", [](Bytes s) { return dispatch(s, soft::kSmall, 32, 64); }},
           {"soft_slots_to_tokens_small_*", [](Bytes s) { return combine(s, soft::kSmall, 32, 64); }},
       }},
      {"Soft MoE routing, large tiles",
       soft::run_large,
       {
           {"soft_tokens_to_slots_large_*", [](Bytes s) { return dispatch(s, soft::kLarge, 64, 128); }},
           {"soft_slots_to_tokens_large_*", [](Bytes s) { return combine(s, soft::kLarge, 64, 128); }},
           // bfloat16 tokens meet the slots' parameters as three parts of bfloat16.
           {"soft_slot_norms", [](Bytes s) { return kPhi * (s == 2 ? 4 + 6 : 4); }},
           {"soft_logits_*",
            [](Bytes s) {
              return (s == 2 ? 3 : 1) * s * (kSoftTokens * soft::kDim + kSoftTiles * kPhi) +
                     (kSoftTokens + 2 * kSoftTiles) * soft::kSlots * 4;
            }},
           {"soft_finish_dispatch",
            [](Bytes) { return (kSoftTiles * 2 + soft::kLarge.batch) * soft::kSlots * 4; }},
           {"soft_write_weights", [](Bytes) { return kSoftTokens * soft::kSlots * 8; }},
           {"soft_row_dots_*", [](Bytes s) { return (kSoftTokens + kSoftSlotRows) * (soft::kDim * 2 * s + 4); }},
           {"soft_logits_gradient_*",
            [](Bytes s) {
              return 2 * s * (kSoftTokens * soft::kDim + kSoftTiles * kPhi) + kSoftTokens * soft::kSlots * 8;
            }},
           {"soft_normalize_slots", [](Bytes) { return kPhi * 8; }},
           // x, dxhat and what the gradient is added to; xhat and the gradient.
           {"soft_token_gradient_*", [](Bytes s) { return kSoftTokens * (soft::kDim * (3 * s + 8) + 8); }},
           {"soft_sum_all", [](Bytes) { return kSoftTokens * 4; }},
           {"soft_slot_gradient", [](Bytes) { return kPhi * 12; }},
       }},
      {"identity routing",
       soft::run_identity,
       {
           {"soft_dispatch_values", [](Bytes) { return kSoftSlotRows * 4; }},
       }},
      {"tokens choice",
       sp::run_tokens_choice,
       {
           {"top_experts", [](Bytes) { return sp::kAll * (sp::kExperts + sp::kChoices) * 4; }},
           {"token_priorities", [](Bytes) { return sp::kAll * (sp::kChoices * (kSector + 4) + 4); }},
           {"order_tokens",
            [](Bytes) { return sp::kAll * (tiles(sp::kTokens, 256) * 4 + 4 + kSector); }},
           {"buffer_positions", [](Bytes) { return sp::kAssignments * (4 + 2 * kSector); }, kByIndex},
           {"normalize_selected",
            [](Bytes) { return sp::kAll * (sp::kExperts * 4 + (1 + sp::kChoices) * kSector); }},
           // A thread walks over its token's choices: each meets the sectors of all.
           {"count_rows", [](Bytes) { return sp::kAssignments * 8 * sp::kChoices + sp::kAll * 4; }},
           {"exclusive_scan", [](Bytes) { return (sp::kGroups * sp::kExperts + sp::kAll) * 8; }},
           {"list_rows",
            [](Bytes) {
              return sp::kAssignments * (8 * sp::kChoices + 4 + 2 * kSector) + sp::kAll * 4;
            }},
           // Alike, each row read and half of them moved.
           {"sort_token_rows",
            [](Bytes) { return sp::kAssignments * 8 * sp::kChoices + sp::kAll * 8; }},
           // A warp finds the experts of its rows in six steps.
           {"row_gates", [](Bytes) { return sp::kAssignments * (8 + kSector + 6); }},
       }},
      {"experts choice",
       sp::run_experts_choice,
       {
           {"best_tokens", [](Bytes) { return sp::kAll * sp::kExperts * 4 + sp::kChosen * (8 + 8 + kSector); }},
           {"count_chosen_tokens", [](Bytes) { return sp::kChosen * 4; }},
           {"list_chosen_tokens", [](Bytes) { return sp::kChosen * (8 + 2 * kSector); }},
       }},
      {"combining rows",
       sp::run_combine,
       {
           {"combine_rows_warp",
            [](Bytes s) {
              return (sp::kAssignments + sp::kAll) * sp::kDim * s + sp::kAssignments * 2 * kSector;
            }},
           {"combine_rows_backward_warp",
            [](Bytes s) { return sp::kAssignments * (sp::kDim * 3 * s + 12); }},
       }},
      {"combining long rows",
       sp::run_combine_long,
       {
           {"combine_rows_block", [](Bytes s) { return (sp::kAssignments + sp::kAll) * sp::kLongDim * s; }},
           {"combine_rows_backward_block", [](Bytes s) { return sp::kAssignments * sp::kLongDim * 3 * s; }},
       }},
      {"checks of indices",
       sp::run_checks,
       {
           // A token's rows are looked up (6 steps over the experts' offsets, a warp meets all of their
           // sectors), compared with their owners and copied.
           {"check_row_lists",
            [](Bytes) {
              return sp::kAssignments * (8 * 4 + kSector + 6 * sp::kExperts * 4 / 32) + sp::kAll * 6 * 4;
            }},
           // Looked at, then read again and copied.
           {"check_selection", [](Bytes) { return sp::kAssignments * 2 * 3 * 4; }},
       }},
      {"routers' losses",
       sp::run_losses,
       {
           {"router_loss_tokens", [](Bytes) { return sp::kAll * (sp::kExperts * 4 + 3 * kSector); }},
           {"router_loss_sums",
            [](Bytes) {
              return sp::kAll * (sp::kExperts + sp::kExperts / 32) * 4 + sp::kGroups * sp::kExperts * 16;
            }},
           {"router_loss_finish", [](Bytes) { return sp::kGroups * sp::kExperts * (4 * 8 + 4); }},
           {"router_loss_gradient",
            [](Bytes) { return sp::kAll * (sp::kExperts * 3 * 4 + 2 * kSector); }},
       }},
      {"Sinkhorn plans",
       plans::run_sinkhorn,
       {
           {"sinkhorn_plan",
            [](Bytes) {
              using namespace plans;
              return kGroups * kTokens * kExperts * 4 * (2 * kIterations + 2);
            }},
           {"sinkhorn_gradient",
            [](Bytes) {
              using namespace plans;
              return kGroups * kTokens * (kExperts * 4 * 7 + 4 * kSector + 16);
            }},
       }},
      {"sparsity-constrained plans",
       plans::run_sparse,
       {
           {"sparse_plan_columns",
            [](Bytes) {
              using namespace plans;
              return kGroups * kTokens * kExperts * ((4 + 8 + 8) * kIterations + 4 + 8 + 4);
            }},
           {"sparse_plan_step",
            [](Bytes) {
              using namespace plans;
              return kGroups * kTokens * (kExperts * 8 + 6 * 8) * kIterations;
            }},
       }},
  };
  return workloads;
}

}  // namespace softmoe::testing
