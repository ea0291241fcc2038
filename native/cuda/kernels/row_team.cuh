// Rows of elements, each worked on by a team of threads: a warp for short rows, a block for long ones. Which
// it is depends on the row's length alone, and so does the order of a row's sums.
#pragma once

#include <utility>

#include "cuda/kernels/any_floats.cuh"
#include "cuda/kernels/reduce.cuh"

namespace softmoe::cuda {

constexpr int kRowThreads = 256;  // of a block

struct TwoFours {
  float4 a, b;
};

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

  // What load(i, n) gives for the elements i … i + n - 1 of a row: the first kKept fours of each thread stay
  // in registers, the others are loaded again whenever they are met. Eight fours are 1024 elements of a
  // warp's row and 8192 of a block's.
  template <class Load, int kKept>
  class Kept {
   public:
    using Four = decltype(std::declval<Load>()(std::int64_t{0}, 4));

    __device__ __forceinline__ Kept(std::int64_t count, const Load& load) : count_(count), load_(load) {
#pragma unroll
      for (int k = 0; k < kKept; ++k) {
        if (first(k) < count) kept_[k] = load(first(k), number(first(k)));
      }
    }
    // Calls body(i, n, four).
    template <class Body>
    __device__ __forceinline__ void for_fours(Body body) const {
#pragma unroll
      for (int k = 0; k < kKept; ++k) {
        if (first(k) < count_) body(first(k), number(first(k)), kept_[k]);
      }
      for (std::int64_t i = first(kKept); i < count_; i += kSize * 4) {
        const int n = number(i);
        body(i, n, load_(i, n));
      }
    }
    // Every thread gets the sum of f(four) over the row.
    template <class F>
    __device__ __forceinline__ float sum_of(F f) const {
      float total = 0;
      for_fours([&](std::int64_t, int n, const Four& four) {
        const float4 v = f(four);
        total += v.x;
        if (n > 1) total += v.y;
        if (n > 2) total += v.z;
        if (n > 3) total += v.w;
      });
      return sum(total);
    }
    // Of float4. A NaN is passed over; -infinity when there is nothing else.
    __device__ __forceinline__ float largest() const {
      float largest = -INFINITY;
      for_fours([&](std::int64_t, int n, const Four& v) {
        largest = fmaxf(largest, v.x);
        if (n > 1) largest = fmaxf(largest, v.y);
        if (n > 2) largest = fmaxf(largest, v.z);
        if (n > 3) largest = fmaxf(largest, v.w);
      });
      return maximum(largest);
    }

   private:
    static __device__ __forceinline__ std::int64_t first(int k) { return (rank() + k * kSize) * 4; }
    __device__ __forceinline__ int number(std::int64_t i) const {
      return static_cast<int>(min(count_ - i, static_cast<std::int64_t>(4)));
    }

    std::int64_t count_;
    const Load& load_;
    Four kept_[kKept];
  };
  template <int kKept = 8, class Load>
  static __device__ __forceinline__ Kept<Load, kKept> keep(std::int64_t count, const Load& load) {
    return Kept<Load, kKept>(count, load);
  }

  // Sum over the elements of a row; f gives four values of which those from `n` on are left out.
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
};

// Defines name_warp and name_block, which call body<Team>(params). Two blocks of whole rows in registers keep
// more loads under way than memory can answer.
#define SOFTMOE_ROW_KERNELS(name, Params, body)                \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 2) \
      name##_warp(const __grid_constant__ Params params) {     \
    body<RowTeam<kWarpSize>>(params);                          \
  }                                                            \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 2) \
      name##_block(const __grid_constant__ Params params) {    \
    body<RowTeam<kRowThreads>>(params);                        \
  }

}  // namespace softmoe::cuda
