// Multi-head attention.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace softmoe::ops {

// q [batch, queries, heads, head_dim]; k, v [batch, keys, heads, head_dim]. Returns o (like q) and, with
// `save_statistics`, the log-sum-exps (float32 [batch, heads, queries]).
std::tuple<Tensor, std::optional<Tensor>> attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                                    double scale, double dropout_rate, const RandomKey& key,
                                                    bool save_statistics);
// Returns dq, dk, dv.
std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                      const Tensor& o, const Tensor& log_sum_exp,
                                                      const Tensor& d_o, double scale, double dropout_rate,
                                                      const RandomKey& key);

}  // namespace softmoe::ops
