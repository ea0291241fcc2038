// Products that sum over the rows: y[g] = a[g]^T b[g]. Gradients of weights (with the column sums of b, the
// gradient of the bias, in the same pass), MatMul with a transposed a. One block makes a 64 x 128 tile over
// all rows of its group, or over one split of them; partial results of splits are summed in their order by a
// second kernel.
//
// Bytes: rows * (m * columns of blocks + n * rows of blocks) + groups * m * n, each times the element's size.
#include "cuda/kernels/gemm.cuh"
#include "cuda/kernels/products_params.h"

namespace softmoe::cuda {

template <class T, Layout kLayoutB>
using ColumnProductTile = GemmTile<T, 64, 128, 2, 2, 128, 3, Layout::kDepthStrided, kLayoutB>;

template <class Tile>
__device__ __forceinline__ void column_product(const ColumnProduct& p) {
  using T = typename Tile::T;
  extern __shared__ __align__(128) char shared[];

  int index = blockIdx.x;
  const int m_tile = index % p.m_tiles;
  index /= p.m_tiles;
  const int n_begin = index % p.n_tiles * Tile::kN;
  index /= p.n_tiles;
  const int group = index % p.groups, split = index / p.groups;
  const int m_begin = m_tile * Tile::kM;

  const int group_begin = p.offsets ? p.offsets[group] : group * p.rows_per_group;
  const int group_end = p.offsets ? p.offsets[group + 1] : group_begin + p.rows_per_group;
  const int begin = min(group_begin + split * p.rows_per_split, group_end);
  const int end = split == p.splits - 1 ? group_end : min(begin + p.rows_per_split, group_end);

  const T* b = static_cast<const T*>(p.b);
  const int n_end = min(n_begin + Tile::kN, p.n);
  OperandRange range_b{n_begin, n_end, begin, end};
  int pitch_b = p.n;
  if constexpr (Tile::PanelB::kDepthContiguous) {
    // [n, rows] for each group: the depth starts anew in each.
    b += static_cast<std::size_t>(group) * p.n * p.rows_per_group;
    pitch_b = p.rows_per_group;
    range_b.depth_begin -= group_begin;
    range_b.depth_end -= group_begin;
  }
  CopiedOperand<T, typename Tile::PanelA, Tile::kThreads, GatheredRow> source_a(
      static_cast<const T*>(p.a), p.m, {m_begin, min(m_begin + Tile::kM, p.m), begin, end}, p.a_aligned,
      {p.gather});
  CopiedOperand<T, typename Tile::PanelB, Tile::kThreads, SameRow> source_b(b, pitch_b, range_b, p.b_aligned,
                                                                            {});

  typename Tile::Accumulators c;
  Tile::clear(c);
  const int tiles = (end - begin + Tile::kDepth - 1) / Tile::kDepth;
  const bool sums_columns = p.column_sums && m_tile == 0;
  float column_sum = 0;
  Tile::multiply(c, source_a, source_b, tiles, shared, p.exact, [&](const char*, const char* panel_b, int) {
    if constexpr (!Tile::PanelB::kDepthContiguous) {
      static_assert(Tile::kThreads == Tile::kN, "a thread sums one column");
      if (sums_columns) {
#pragma unroll 8
        for (int r = 0; r < Tile::kDepth; ++r) {
          column_sum += to_float(Tile::PanelB::element(panel_b, r, threadIdx.x));
        }
      }
    }
  });

  const std::size_t part = static_cast<std::size_t>(split) * p.groups + group;
  if (sums_columns && n_begin + static_cast<int>(threadIdx.x) < p.n) {
    p.column_sums[part * p.n + n_begin + threadIdx.x] = column_sum;
  }
  float* result = reinterpret_cast<float*>(shared);
  Tile::to_shared(c, result);
  Tile::for_each_four(result, [&](int row, int column, float4 v) {
    const int m = m_begin + row, n = n_begin + column;
    if (m >= p.m || n >= p.n) return;
    const int count = min(p.n - n, 4);
    const std::size_t at = (part * p.m + m) * p.n + n;
    v = make_float4(p.alpha * v.x, p.alpha * v.y, p.alpha * v.z, p.alpha * v.w);
    store4_output(p, at, v, count);
  });
}

#define SOFTMOE_COLUMN_PRODUCT(name, T, layout)                                           \
  extern "C" __global__ void __launch_bounds__(ColumnProductTile<T, layout>::kThreads, 2) \
      name(const __grid_constant__ ColumnProduct params) {                                \
    column_product<ColumnProductTile<T, layout>>(params);                                 \
  }

SOFTMOE_COLUMN_PRODUCT(column_product_tn_bfloat16, bfloat16, Layout::kDepthStrided)
SOFTMOE_COLUMN_PRODUCT(column_product_tn_float32, float, Layout::kDepthStrided)
SOFTMOE_COLUMN_PRODUCT(column_product_tt_bfloat16, bfloat16, Layout::kDepthContiguous)
SOFTMOE_COLUMN_PRODUCT(column_product_tt_float32, float, Layout::kDepthContiguous)

constexpr int kSumThreads = 256;

template <class T>
__device__ __forceinline__ void sum_partials(const SumPartials& p) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (i >= p.count) return;
  float sum = 0;
  for (int s = 0; s < p.splits; ++s) sum += p.partial[s * p.count + i];
  T* y = static_cast<T*>(p.y) + i;
  if (p.accumulate) sum += to_float(*y);
  *y = from_float<T>(sum);
}

extern "C" __global__ void __launch_bounds__(kSumThreads)
    sum_partials(const __grid_constant__ SumPartials params) {
  if (params.y_is_float) {
    sum_partials<float>(params);
  } else {
    sum_partials<bfloat16>(params);
  }
}

constexpr int kFindThreads = 256;

// One block. The tiles of all groups in order; an inclusive scan of their numbers, kFindThreads groups at a
// time.
extern "C" __global__ void __launch_bounds__(kFindThreads)
    find_row_tiles(const __grid_constant__ FindRowTiles params) {
  __shared__ int counts[kFindThreads];
  static_assert(sizeof(RowTile) == sizeof(int4));
  int4* tiles = reinterpret_cast<int4*>(params.tiles);  // in one access each
  int before = 0;
  for (int first = 0; first < params.groups; first += kFindThreads) {
    const int group = first + static_cast<int>(threadIdx.x);
    int begin = 0, end = 0;
    if (group < params.groups) {
      begin = params.offsets[group];
      end = params.offsets[group + 1];
    }
    const int count = (end - begin + params.tile_rows - 1) / params.tile_rows;
    counts[threadIdx.x] = count;
    __syncthreads();
    for (int step = 1; step < kFindThreads; step *= 2) {
      const int other = static_cast<int>(threadIdx.x) >= step ? counts[threadIdx.x - step] : 0;
      __syncthreads();
      counts[threadIdx.x] += other;
      __syncthreads();
    }
    const int at = before + counts[threadIdx.x] - count;
    for (int t = 0; t < count; ++t) {
      const int row = begin + t * params.tile_rows;
      tiles[at + t] = make_int4(group, row, min(row + params.tile_rows, end), 0);
    }
    before += counts[kFindThreads - 1];
    __syncthreads();
  }
  for (int t = before + static_cast<int>(threadIdx.x); t < params.max_tiles; t += kFindThreads) {
    tiles[t] = make_int4(-1, 0, 0, 0);
  }
}

}  // namespace softmoe::cuda
