// Row and column softmax statistics of logits [batch][rows][columns] in one pass: the largest value and the
// sum of exp(value - largest), of each row, and of each column over the 32 rows of a block's tile. Online
// update as in Milakov and Gimelshein, "Online normalizer calculation for softmax".
#include <math_constants.h>

struct Statistics {
  float largest;
  float sum;
};

__device__ Statistics combine(Statistics a, Statistics b) {
  const float largest = fmaxf(a.largest, b.largest);
  if (largest == -CUDART_INF_F) return {largest, 0.f};
  return {largest, a.sum * __expf(a.largest - largest) + b.sum * __expf(b.largest - largest)};
}

constexpr int warps = 8;
constexpr int rowsPerWarp = 4;
constexpr int tileRows = warps * rowsPerWarp;
constexpr int tileColumns = 128;

extern "C" __global__ __launch_bounds__(warps *
                                        32) void softmax_statistics(const float* __restrict__ logits,
                                                                    float2* __restrict__ rowStatistics,
                                                                    float2* __restrict__ columnStatistics,
                                                                    int rows, int columns) {
  __shared__ float2 partial[warps][tileColumns];
  const int tile = blockIdx.x, batch = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* matrix = logits + static_cast<size_t>(batch) * rows * columns;
  Statistics ofRow[rowsPerWarp];
#pragma unroll
  for (int r = 0; r < rowsPerWarp; ++r) ofRow[r] = {-CUDART_INF_F, 0.f};
  for (int first = 0; first < columns; first += tileColumns) {
    Statistics ofColumn[tileColumns / 32];
#pragma unroll
    for (int c = 0; c < tileColumns / 32; ++c) ofColumn[c] = {-CUDART_INF_F, 0.f};
#pragma unroll
    for (int r = 0; r < rowsPerWarp; ++r) {
      const int row = tile * tileRows + warp * rowsPerWarp + r;
      if (row >= rows) continue;
#pragma unroll
      for (int c = 0; c < tileColumns / 32; ++c) {
        const int column = first + c * 32 + lane;
        if (column >= columns) continue;
        const Statistics one{matrix[static_cast<size_t>(row) * columns + column], 1.f};
        ofRow[r] = combine(ofRow[r], one);
        ofColumn[c] = combine(ofColumn[c], one);
      }
    }
#pragma unroll
    for (int c = 0; c < tileColumns / 32; ++c)
      partial[warp][c * 32 + lane] = make_float2(ofColumn[c].largest, ofColumn[c].sum);
    __syncthreads();
    if (threadIdx.x < tileColumns) {
      Statistics all{-CUDART_INF_F, 0.f};
      for (int w = 0; w < warps; ++w) {
        const float2 one = partial[w][threadIdx.x];
        all = combine(all, Statistics{one.x, one.y});
      }
      const int column = first + threadIdx.x;
      if (column < columns)
        columnStatistics[(static_cast<size_t>(batch) * gridDim.x + tile) * columns + column] =
            make_float2(all.largest, all.sum);
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < rowsPerWarp; ++r) {
    Statistics all = ofRow[r];
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      all = combine(all,
                    Statistics{__shfl_xor_sync(~0u, all.largest, step), __shfl_xor_sync(~0u, all.sum, step)});
    const int row = tile * tileRows + warp * rowsPerWarp + r;
    if (lane == 0 && row < rows)
      rowStatistics[static_cast<size_t>(batch) * rows + row] = make_float2(all.largest, all.sum);
  }
}
