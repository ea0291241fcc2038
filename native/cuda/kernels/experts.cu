// What the expert MLP needs beside its products (products_*.cu): dropout of the gradient that comes in, which
// is an operand of two products. Bytes: twice the rows.
#include "cuda/kernels/dropout.cuh"
#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/experts_params.h"

namespace softmoe::cuda {

constexpr int kThreads = 256;

template <class T>
__device__ __forceinline__ void drop_rows(const DropRows& p) {
  const std::int64_t rows = p.row_end ? *p.row_end : p.rows;
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  const int count = static_cast<int>(min(rows * p.columns - first, static_cast<std::int64_t>(4)));
  if (count <= 0) return;
  const float4 v = load4_partial(static_cast<const T*>(p.x) + first, count, true);
  const float4 factor = dropout_factors(p.key, first, p.rate);
  store4_partial(static_cast<T*>(p.y) + first,
                 make_float4(v.x * factor.x, v.y * factor.y, v.z * factor.z, v.w * factor.w), count, true);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    expert_drop_rows_float32(const __grid_constant__ DropRows params) {
  drop_rows<float>(params);
}
extern "C" __global__ void __launch_bounds__(kThreads)
    expert_drop_rows_bfloat16(const __grid_constant__ DropRows params) {
  drop_rows<bfloat16>(params);
}

}  // namespace softmoe::cuda
