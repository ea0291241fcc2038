// The batched expert MLP: y_e = activation(x_e w1_e + b1_e) w2_e + b2_e for the rows of each expert e.
// One expert is the dense MLP of a ViT block.
#pragma once

#include "core/kernels/elementwise.h"

namespace softmoe {

// Which rows belong to which expert. Rows are expert-major.
struct ExpertRows {
  std::int64_t num_experts = 0;
  // Uniform: expert e owns rows [e * rows_per_expert, (e + 1) * rows_per_expert); `offsets` is null.
  std::int64_t rows_per_expert = 0;
  // Ragged: expert e owns rows [offsets[e], offsets[e + 1]), int32 [num_experts + 1] on the device. Rows from
  // offsets[num_experts] to max_rows exist in memory, are neither read nor written.
  const std::int32_t* offsets = nullptr;
  std::int64_t max_rows = 0;
  // If not null, row r of the experts' input is row gather[r] of x (int32 [max_rows]); elsewhere row r.
  const std::int32_t* gather = nullptr;
};

// x [rows (or tokens when gathered), dim], w1 [E, dim, hidden], b1 [E, hidden] float32, w2 [E, hidden, out],
// b2 [E, out] float32, pre [max_rows, hidden] (before the activation, without dropout; null in inference),
// y [max_rows, out]. x, w1, w2, pre, y share a dtype. Dropout with `dropout_rate` after the activation
// (stream key.stream, index row * hidden + column) and after the second product (stream key.stream + 1, index
// row * out + column).
struct ExpertsForward {
  static constexpr const char* kName = "experts";
  ExpertRows rows;
  Buffer x, w1, b1, w2, b2, pre, y;
  std::int64_t dim = 0, hidden = 0, out = 0;
  Activation activation = Activation::kGeluTanh;
  double dropout_rate = 0;
  RandomKey key;
};

// Gradients of ExpertsForward: dx [max_rows, dim] by expert row (not scattered back to tokens; null when not
// wanted), dw1, db1, dw2, db2 float32 (experts without rows get zeros; all null when not wanted).
struct ExpertsBackward {
  static constexpr const char* kName = "experts_backward";
  ExpertRows rows;
  Buffer x, w1, w2, pre, dy, dx, dw1, db1, dw2, db2;
  std::int64_t dim = 0, hidden = 0, out = 0;
  Activation activation = Activation::kGeluTanh;
  double dropout_rate = 0;
  RandomKey key;
};

}  // namespace softmoe
