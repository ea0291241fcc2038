// Rows of elements, each worked on by a team of threads: a warp for short rows, a block for long ones. Which
// it is depends on the row's length alone, and so does the order of a row's sums.
#pragma once

#include "cuda/kernels/any_floats.cuh"
#include "cuda/kernels/reduce.cuh"

namespace softmoe::cuda {

constexpr int kRowThreads = 256;  // of a block

template <int kSize_>
struct RowTeam {
  static constexpr int kSize = kSize_;
  static_assert(kSize == kWarpSize || kSize == kRowThreads, "a warp or a block");

  static __device__ __forceinline__ std::int64_t row() {
    return static_cast<std::int64_t>(blockIdx.x) * (kRowThreads / kSize) + threadIdx.x / kSize;
  }
  static __device__ __forceinline__ int rank() { return threadIdx.x % kSize; }

  // Calls body(i, n) for the elements i … i + n - 1, n <= 4, of each of this thread's groups.
  template <class Body>
  static __device__ __forceinline__ void for_fours(std::int64_t count, Body body) {
    for (std::int64_t i = rank() * 4; i < count; i += kSize * 4) {
      body(i, static_cast<int>(min(count - i, static_cast<std::int64_t>(4))));
    }
  }

  // Every thread of the team gets the result.
  static __device__ __forceinline__ float sum(float x) {
    if constexpr (kSize == kWarpSize) {
      return warp_sum(x);
    } else {
      __shared__ float shared[kRowThreads / kWarpSize];
      return block_sum<kRowThreads>(x, shared);
    }
  }
  static __device__ __forceinline__ float maximum(float x) {
    if constexpr (kSize == kWarpSize) {
      return warp_max(x);
    } else {
      __shared__ float shared[kRowThreads / kWarpSize];
      return block_max<kRowThreads>(x, shared);
    }
  }

  // Sum and maximum over the elements of a row; f gives four values of which those from `n` on are left out.
  template <class F>
  static __device__ __forceinline__ float sum_of(std::int64_t count, F f) {
    float total = 0;
    for_fours(count, [&](std::int64_t i, int n) {
      const float4 v = f(i, n);
      total += v.x;
      if (n > 1) total += v.y;
      if (n > 2) total += v.z;
      if (n > 3) total += v.w;
    });
    return sum(total);
  }
  // A NaN is passed over; -infinity when there is nothing else.
  static __device__ __forceinline__ float largest_of(const AnyFloats& x, std::int64_t first,
                                                     std::int64_t count) {
    float largest = -INFINITY;
    for_fours(count, [&](std::int64_t i, int n) {
      const float4 v = load4(x, first + i, n);
      largest = fmaxf(largest, v.x);
      if (n > 1) largest = fmaxf(largest, v.y);
      if (n > 2) largest = fmaxf(largest, v.z);
      if (n > 3) largest = fmaxf(largest, v.w);
    });
    return maximum(largest);
  }
};

// Defines name_warp and name_block, which call body<Team>(params).
#define SOFTMOE_ROW_KERNELS(name, Params, body)             \
  extern "C" __global__ void __launch_bounds__(kRowThreads) \
      name##_warp(const __grid_constant__ Params params) {  \
    body<RowTeam<kWarpSize>>(params);                       \
  }                                                         \
  extern "C" __global__ void __launch_bounds__(kRowThreads) \
      name##_block(const __grid_constant__ Params params) { \
    body<RowTeam<kRowThreads>>(params);                     \
  }

}  // namespace softmoe::cuda
