// Access to arrays of a type known at run time, and walks over all elements four at a time. The branch on the
// type is the same for all threads of a kernel.
#pragma once

#include "cuda/kernels/any_floats.h"
#include "cuda/kernels/elements.cuh"

namespace softmoe::cuda {

// Elements i … i + 3, of which `count` (0 … 4) exist; zeros for the rest.
__device__ __forceinline__ float4 load4(const AnyFloats& x, std::int64_t i, int count) {
  const bool aligned = x.aligned && i % 4 == 0;
  return x.is_bfloat16 ? load4_partial(static_cast<const bfloat16*>(x.data) + i, count, aligned)
                       : load4_partial(static_cast<const float*>(x.data) + i, count, aligned);
}
__device__ __forceinline__ void store4(const AnyFloats& y, std::int64_t i, float4 v, int count) {
  const bool aligned = y.aligned && i % 4 == 0;
  if (y.is_bfloat16) {
    store4_partial(static_cast<bfloat16*>(y.data) + i, v, count, aligned);
  } else {
    store4_partial(static_cast<float*>(y.data) + i, v, count, aligned);
  }
}
__device__ __forceinline__ float load(const AnyFloats& x, std::int64_t i) {
  return x.is_bfloat16 ? to_float(static_cast<const bfloat16*>(x.data)[i])
                       : static_cast<const float*>(x.data)[i];
}
__device__ __forceinline__ void store(const AnyFloats& y, std::int64_t i, float v) {
  if (y.is_bfloat16) {
    static_cast<bfloat16*>(y.data)[i] = from_float<bfloat16>(v);
  } else {
    static_cast<float*>(y.data)[i] = v;
  }
}

template <class F>
__device__ __forceinline__ float4 map4(float4 a, F f) {
  return make_float4(f(a.x), f(a.y), f(a.z), f(a.w));
}
template <class F>
__device__ __forceinline__ float4 map4(float4 a, float4 b, F f) {
  return make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w));
}

// Calls body(i, n) for this thread's elements i … i + n - 1, n <= 4, of `count`.
template <class Body>
__device__ __forceinline__ void by_fours(std::int64_t count, Body body) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  if (i < count) body(i, static_cast<int>(min(count - i, static_cast<std::int64_t>(4))));
}

struct Quotient {
  std::int64_t value, rest;
};
// By 32-bit division where that suffices.
__device__ __forceinline__ Quotient divide(std::int64_t i, std::int64_t by) {
  if (((i | by) >> 32) == 0) {
    const auto low = static_cast<std::uint32_t>(i), divisor = static_cast<std::uint32_t>(by);
    const std::uint32_t value = low / divisor;
    return {value, low - value * divisor};
  }
  const std::int64_t value = i / by;
  return {value, i - value * by};
}

}  // namespace softmoe::cuda
