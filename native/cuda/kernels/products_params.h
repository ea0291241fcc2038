// Arguments of the matrix products (products_*.cu).
#pragma once

#include <cstdint>

#include "core/kernels/elementwise.h"

namespace softmoe::cuda {

// A block's rows in a ragged product; group -1: nothing to do.
struct RowTile {
  std::int32_t group, begin, end, unused;
};

// y[r] = epilogue(a[gather[r]] b[g]) for the rows r of each group g; a [*, depth], b [groups][depth, columns]
// (nn) or [groups][columns, depth] (nt), y [rows, columns]. In the order of the epilogue:
//   v = alpha * product + bias[g]
//   pre = v
//   v = activation(v), or with `derivative_at` d: v = v * activation'(d) * mask; activated = activation(d) *
//   mask v = dropout(v) (mask alike): 0 or v / (1 - rate) y = v, or y + v to accumulate; y is float32 or
//   bfloat16
// Rows are r in [g * rows_per_group, (g + 1) * rows_per_group), or as `tiles` says.
struct RowProduct {
  const void* a;
  const void* b;
  void* y;
  const float* bias;          // [groups, columns] or null
  void* pre;                  // like a, [rows, columns], or null
  const void* derivative_at;  // like a, [rows, columns], or null
  void* activated;            // like a, [rows, columns], or null
  const std::int32_t* gather;
  const RowTile* tiles;
  std::int32_t groups, rows_per_group, columns, depth;
  std::int32_t row_tiles, column_tiles;  // row tiles of a group, or of all when ragged
  float alpha;
  float dropout_rate;
  RandomKey dropout_key;
  Activation activation;
  bool y_is_float, accumulate, exact;
  bool a_aligned, b_aligned, y_aligned;
};

// y[g] = alpha * a[g]^T b[g] (+ y) over the rows of each group; a [rows, m] (row gather[r] when given), b
// [rows, n], y [groups][m, n]; column_sums [groups][n] of b, or null. With `b_transposed` b is [groups][n,
// rows]. Splits: the rows of a group are cut every rows_per_split; y and column_sums then hold a partial
// result for each split, [splits][…], float32.
struct ColumnProduct {
  const void* a;
  const void* b;
  void* y;
  float* column_sums;
  const std::int32_t* gather;
  const std::int32_t* offsets;  // ragged groups, [groups + 1], or null
  std::int32_t groups, rows_per_group, m, n;
  std::int32_t m_tiles, n_tiles, splits, rows_per_split;
  float alpha;
  bool y_is_float, accumulate, exact;
  bool a_aligned, b_aligned, y_aligned;
};

// y[i] (+)= sum over s of partial[s][i], s ascending.
struct SumPartials {
  const float* partial;
  void* y;
  std::int64_t count;
  std::int32_t splits;
  bool y_is_float, accumulate;
};

// tiles[t] of a ragged product with tiles of `tile_rows` rows, from the groups' offsets.
struct FindRowTiles {
  const std::int32_t* offsets;
  RowTile* tiles;
  std::int32_t groups, tile_rows, max_tiles;
};

}  // namespace softmoe::cuda
