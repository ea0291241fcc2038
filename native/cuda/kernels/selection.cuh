// Choosing the largest of many numbers, ties to the lower index, NaN as -infinity.
#pragma once

#include <cstdint>

#include "cuda/kernels/reduce.cuh"

namespace softmoe::cuda {

// Larger numbers have larger keys; -0 and 0 are equal, NaN equals -infinity.
__device__ __forceinline__ std::uint32_t order_key(float value) {
  const std::uint32_t bits = __float_as_uint(isnan(value) ? -INFINITY : value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ std::uint64_t order_key(double value) {
  const auto bits = static_cast<std::uint64_t>(__double_as_longlong(isnan(value) ? -INFINITY : value + 0.0));
  return bits >> 63 ? ~bits : bits | std::uint64_t{1} << 63;
}

// No two are equal: the lower index has the larger key.
__device__ __forceinline__ std::uint64_t unique_key(float value, std::int64_t index) {
  return static_cast<std::uint64_t>(order_key(value)) << 32 |
         (0xffffffffu - static_cast<std::uint32_t>(index));
}
__device__ __forceinline__ std::int32_t index_of_key(std::uint64_t key) {
  return static_cast<std::int32_t>(0xffffffffu - static_cast<std::uint32_t>(key));
}

__device__ __forceinline__ std::uint64_t warp_max(std::uint64_t x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const std::uint64_t other = __shfl_xor_sync(kFullWarp, static_cast<unsigned long long>(x), step);
    x = other > x ? other : x;
  }
  return x;
}

// Calls take(choice, index) in every lane for the k largest of `count` values, best first. k passes over the
// values, of which the first 256 stay in registers.
template <class Take>
__device__ __forceinline__ void warp_top_k(const float* values, std::int64_t count, std::int64_t k,
                                           Take take) {
  constexpr int kKept = 8;
  const int lane = threadIdx.x % kWarpSize;
  float kept[kKept];
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    if (lane + i * kWarpSize < count) kept[i] = values[lane + i * kWarpSize];
  }
  std::uint64_t last = ~std::uint64_t{0};
  for (std::int64_t choice = 0; choice < k; ++choice) {
    std::uint64_t best = 0;
    const auto look = [&](float value, std::int64_t i) {
      const std::uint64_t key = unique_key(value, i);
      if (key < last && key > best) best = key;
    };
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      if (lane + i * kWarpSize < count) look(kept[i], lane + i * kWarpSize);
    }
    for (std::int64_t i = lane + kKept * kWarpSize; i < count; i += kWarpSize) look(values[i], i);
    last = warp_max(best);
    take(choice, index_of_key(last));
  }
}

__device__ __forceinline__ double warp_sum(double x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}
__device__ __forceinline__ std::int32_t warp_sum(std::int32_t x) { return __reduce_add_sync(kFullWarp, x); }

}  // namespace softmoe::cuda
