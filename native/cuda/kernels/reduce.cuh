// Sums and maxima over a warp or a block, in a fixed order.
#pragma once

namespace softmoe::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// Every lane gets the result.
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}

// Every thread gets the result. `shared` holds one float a warp; `threads` is the block's size.
template <int threads>
__device__ __forceinline__ float block_sum(float x, float* shared) {
  static_assert(threads % kWarpSize == 0);
  x = warp_sum(x);
  __syncthreads();  // earlier readers of `shared` are done
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < threads / kWarpSize; ++warp) total += shared[warp];
  return total;
}
template <int threads>
__device__ __forceinline__ float block_max(float x, float* shared) {
  static_assert(threads % kWarpSize == 0);
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  float largest = shared[0];
  for (int warp = 1; warp < threads / kWarpSize; ++warp) largest = fmaxf(largest, shared[warp]);
  return largest;
}

}  // namespace softmoe::cuda
