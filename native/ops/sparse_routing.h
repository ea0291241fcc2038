// Routing by index: selection, row lists, gates, combining.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace softmoe::ops {

// The row lists of a routing by index (see core/kernels/sparse_routing.h), int32.
struct RowListOperands {
  Tensor expert_offsets, row_token, token_offsets, token_rows;
};

// scores [groups, tokens, experts] -> expert, position, int32 [groups, tokens, k].
std::tuple<Tensor, Tensor> tokens_choice(const Tensor& scores, std::int64_t k, RoutingPriority priority);
// scores [groups, tokens, experts] -> token int32 [groups, experts, capacity].
Tensor experts_choice(const Tensor& scores, std::int64_t capacity);
// -> expert_offsets, row_token, token_offsets, token_rows.
std::tuple<Tensor, Tensor, Tensor, Tensor> rows_from_tokens_choice(const Tensor& expert,
                                                                   const Tensor& position,
                                                                   std::int64_t experts,
                                                                   std::int64_t capacity);
std::tuple<Tensor, Tensor, Tensor, Tensor> rows_from_experts_choice(const Tensor& token, std::int64_t tokens);
// gates [groups, tokens, experts] -> row gates [max_rows].
Tensor gather_gates(const Tensor& gates, const RowListOperands& lists);
Tensor gather_gates_backward(const Tensor& drow_gate, const Shape& gates_shape, const RowListOperands& lists);
// gates [groups, tokens, experts], expert [groups, tokens, k].
Tensor normalize_selected(const Tensor& gates, const Tensor& expert);
Tensor normalize_selected_backward(const Tensor& gates, const Tensor& expert, const Tensor& dy);
// rows [max_rows, dim] -> [tokens, dim], weighted by row_gate [max_rows] if given.
Tensor combine_rows(const Tensor& rows, const std::optional<Tensor>& row_gate, const RowListOperands& lists);
// Returns drows, drow_gate.
std::tuple<Tensor, Tensor> combine_rows_backward(const Tensor& rows, const Tensor& row_gate, const Tensor& dy,
                                                 const RowListOperands& lists);

}  // namespace softmoe::ops
