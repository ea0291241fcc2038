// Float32 products with a small weight (or the gradient of one), in float64: models so narrow amplify the
// rounding of float32 sums, and are too small for float64 to cost anything that matters. What they compute is
// told in products_params.h.
#include <type_traits>

#include "cuda/kernels/narrow_products_params.h"
#include "cuda/kernels/row_product.cuh"
#include "cuda/kernels/selection.cuh"

namespace softmoe::cuda {

constexpr int kThreads = 128;

// Group of a row: the last one that begins at or before it.
__device__ __forceinline__ int group_of_row(const std::int32_t* offsets, int groups, int row) {
  int low = 0, high = groups;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (offsets[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// A thread makes four columns of a row.
template <bool kTransposedB>
__device__ __forceinline__ void narrow_row_product(const NarrowRowProduct& narrow) {
  const RowProduct& p = narrow.product;
  const int fours = (p.columns + 3) / 4;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int row = static_cast<int>(index / fours), column = static_cast<int>(index % fours) * 4;
  if (row >= (narrow.offsets ? narrow.offsets[p.groups] : narrow.rows)) return;
  const int group =
      narrow.offsets ? group_of_row(narrow.offsets, p.groups, row) : row / max(p.rows_per_group, 1);
  const std::int64_t source = p.gather ? p.gather[row] : row;
  const float* a = static_cast<const float*>(p.a) + source * p.depth;
  const float* b = static_cast<const float*>(p.b) + static_cast<std::int64_t>(group) * p.depth * p.columns;
  double sums[4] = {};
  for (int k = 0; k < p.depth; ++k) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (column + e >= p.columns) continue;
      const std::int64_t at = kTransposedB ? static_cast<std::int64_t>(column + e) * p.depth + k
                                           : static_cast<std::int64_t>(k) * p.columns + column + e;
      sums[e] += static_cast<double>(a[k]) * b[at];
    }
  }
  float4 bias = make_float4(0, 0, 0, 0);
  if (p.bias) {
    bias = load4_partial(p.bias + static_cast<std::int64_t>(group) * p.columns + column, p.columns - column,
                         p.y_aligned);
  }
  finish_row_product<float>(p, bias, row, column,
                            make_float4(static_cast<float>(sums[0]), static_cast<float>(sums[1]),
                                        static_cast<float>(sums[2]), static_cast<float>(sums[3])));
}
extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_row_product_nn(const __grid_constant__ NarrowRowProduct params) {
  narrow_row_product<false>(params);
}
extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_row_product_nt(const __grid_constant__ NarrowRowProduct params) {
  narrow_row_product<true>(params);
}

// A warp makes an element of y or of the column sums; each lane takes every 32nd row.
template <bool kTransposedB>
__device__ __forceinline__ void narrow_column_product(const ColumnProduct& p) {
  const int products = p.y ? p.m * p.n : 0, sums = p.column_sums ? p.n : 0;
  const std::int64_t index = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (index >= static_cast<std::int64_t>(p.groups) * (products + sums)) return;
  const int group = static_cast<int>(index / (products + sums)),
            element = static_cast<int>(index % (products + sums));
  const bool is_product = element < products;
  const int m = is_product ? element / p.n : 0, n = is_product ? element % p.n : element - products;
  const int begin = p.offsets ? p.offsets[group] : group * p.rows_per_group;
  const int end = p.offsets ? p.offsets[group + 1] : begin + p.rows_per_group;
  const float* a = static_cast<const float*>(p.a);
  const float* b = static_cast<const float*>(p.b);
  double sum = 0;
  for (int row = begin + lane; row < end; row += kWarpSize) {
    const std::int64_t b_at =
        kTransposedB ? (static_cast<std::int64_t>(group) * p.n + n) * p.rows_per_group + (row - begin)
                     : static_cast<std::int64_t>(row) * p.n + n;
    const std::int64_t source = p.gather ? p.gather[row] : row;
    sum += is_product ? static_cast<double>(a[source * p.m + m]) * b[b_at] : b[b_at];
  }
  sum = warp_sum(sum);
  if (lane != 0) return;
  if (!is_product) {
    p.column_sums[static_cast<std::int64_t>(group) * p.n + n] = static_cast<float>(sum);
    return;
  }
  const std::int64_t at = static_cast<std::int64_t>(group) * products + element;
  const auto finish = [&](auto* y) {
    using Y = typename std::remove_pointer<decltype(y)>::type;
    const float before = p.accumulate ? to_float(y[at]) : 0.0f;
    y[at] = from_float<Y>(p.alpha * static_cast<float>(sum) + before);
  };
  if (p.y_is_float) {
    finish(static_cast<float*>(p.y));
  } else {
    finish(static_cast<bfloat16*>(p.y));
  }
}
extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_column_product_tn(const __grid_constant__ ColumnProduct params) {
  narrow_column_product<false>(params);
}
extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_column_product_tt(const __grid_constant__ ColumnProduct params) {
  narrow_column_product<true>(params);
}

}  // namespace softmoe::cuda
