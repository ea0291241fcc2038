// Products that keep the rows: y[r] = epilogue(a[r] b[group of r]). Linear layers forward (nn) and backward
// to the input (nt), both halves of the expert MLP in both directions, and MatMul. One block makes a tile of
// rows x 128 columns; the tiles of rows that share a slice of b are neighbours in the grid, so that b comes
// from the L2 cache after its first use. With at most a tile of rows a group every byte of b is read once.
//
// Bytes: rows * depth + groups * depth * columns + rows * columns (+ pre), each times the element's size.
// FLOP: 2 * rows * depth * columns.
#pragma once

#include "cuda/kernels/activation.cuh"
#include "cuda/kernels/dropout.cuh"
#include "cuda/kernels/gemm.cuh"
#include "cuda/kernels/products_params.h"

namespace softmoe::cuda {

// Applies a function of (value, value) to four pairs.
template <class F>
__device__ __forceinline__ float4 combine4(float4 a, float4 b, F f) {
  return make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w));
}

template <class T>
__device__ __forceinline__ void finish_row_product(const RowProduct& p, float4 bias, int row, int column,
                                                   float4 v) {
  const int count = min(p.columns - column, 4);
  const std::int64_t index = static_cast<std::int64_t>(row) * p.columns + column;
  const auto multiply = [](float x, float y) { return x * y; };
  v = make_float4(p.alpha * v.x + bias.x, p.alpha * v.y + bias.y, p.alpha * v.z + bias.z,
                  p.alpha * v.w + bias.w);
  if (p.pre) store4_partial(static_cast<T*>(p.pre) + index, v, count, p.y_aligned);
  const bool drops = p.dropout_rate > 0;
  float4 factors = make_float4(1, 1, 1, 1);
  if (drops) factors = dropout_factors(p.dropout_key, index, p.dropout_rate);
  if (p.derivative_at) {
    const float4 at = load4_partial(static_cast<const T*>(p.derivative_at) + index, count, p.y_aligned);
    v = combine4(v, at, [&](float x, float d) { return x * activation_derivative(d, p.activation); });
    if (p.activated) {
      const float4 activated =
          combine4(at, factors, [&](float d, float factor) { return activate(d, p.activation) * factor; });
      store4_partial(static_cast<T*>(p.activated) + index, activated, count, p.y_aligned);
    }
  } else if (p.activation != Activation::kNone) {
    v = make_float4(activate(v.x, p.activation), activate(v.y, p.activation), activate(v.z, p.activation),
                    activate(v.w, p.activation));
  }
  if (drops) v = combine4(v, factors, multiply);
  store4_output(p, index, v, count);
}

template <class Tile>
__device__ __forceinline__ void row_product(const RowProduct& p) {
  using T = typename Tile::T;
  extern __shared__ __align__(128) char shared[];

  int index = blockIdx.x;
  const int row_tile = index % p.row_tiles;
  index /= p.row_tiles;
  const int column = index % p.column_tiles * Tile::kN;
  RowTile rows;
  if (p.tiles) {
    rows = p.tiles[row_tile];
    if (rows.group < 0) return;
  } else {
    rows.group = index / p.column_tiles;
    rows.begin = rows.group * p.rows_per_group + row_tile * Tile::kM;
    rows.end = min(rows.begin + Tile::kM, (rows.group + 1) * p.rows_per_group);
  }

  const T* b = static_cast<const T*>(p.b) + static_cast<std::size_t>(rows.group) * p.depth * p.columns;
  constexpr bool kTransposedB = Tile::PanelB::kDepthContiguous;
  CopiedOperand<T, typename Tile::PanelA, Tile::kThreads, GatheredRow> source_a(
      static_cast<const T*>(p.a), p.depth, {rows.begin, rows.end, 0, p.depth}, p.a_aligned, {p.gather});
  CopiedOperand<T, typename Tile::PanelB, Tile::kThreads, SameRow> source_b(
      b, kTransposedB ? p.depth : p.columns, {column, min(column + Tile::kN, p.columns), 0, p.depth},
      p.b_aligned, {});

  typename Tile::Accumulators c;
  Tile::clear(c);
  Tile::multiply(c, source_a, source_b, (p.depth + Tile::kDepth - 1) / Tile::kDepth, shared, p.exact);

  float* result = reinterpret_cast<float*>(shared);
  Tile::to_shared(c, result);
  // A thread meets the same four columns in every row.
  static_assert(Tile::kThreads % (Tile::kN / 4) == 0);
  float4 bias = make_float4(0, 0, 0, 0);
  if (p.bias) {
    const int first = column + static_cast<int>(threadIdx.x) % (Tile::kN / 4) * 4;
    bias = load4_partial(p.bias + static_cast<std::size_t>(rows.group) * p.columns + first, p.columns - first,
                         p.y_aligned);
  }
  Tile::for_each_four(result, [&](int r, int c4, float4 v) {
    if (rows.begin + r < rows.end && column + c4 < p.columns) {
      finish_row_product<T>(p, bias, rows.begin + r, column + c4, v);
    }
  });
}

// Depth of a stage and number of stages: 64 to 80 KiB a block, so that two blocks share a multiprocessor of
// 164 KiB or more and one fits into 99 KiB; three stages in flight cover the latency of memory for the
// weights.
template <class T, int kRows, Layout kLayoutB>
struct RowProductTile;
template <class T, Layout kLayoutB>
struct RowProductTile<T, 16, kLayoutB>
    : GemmTile<T, 16, 128, 1, 4, 128, 4, Layout::kDepthContiguous, kLayoutB> {};
template <class T, Layout kLayoutB>
struct RowProductTile<T, 32, kLayoutB>
    : GemmTile<T, 32, 128, 1, 4, 128, 4, Layout::kDepthContiguous, kLayoutB> {};
template <class T, Layout kLayoutB>
struct RowProductTile<T, 64, kLayoutB>
    : GemmTile<T, 64, 128, 2, 2, 128, 3, Layout::kDepthContiguous, kLayoutB> {};
template <class T, Layout kLayoutB>
struct RowProductTile<T, 128, kLayoutB>
    : GemmTile<T, 128, 128, 4, 2, 64, 4, Layout::kDepthContiguous, kLayoutB> {};

#define SOFTMOE_ROW_PRODUCT(name, T, rows, layout)                                           \
  extern "C" __global__ void __launch_bounds__(RowProductTile<T, rows, layout>::kThreads, 2) \
      name(const __grid_constant__ RowProduct params) {                                      \
    row_product<RowProductTile<T, rows, layout>>(params);                                    \
  }

}  // namespace softmoe::cuda
