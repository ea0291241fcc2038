// Element types on the device: conversion between storage and float32, and access four elements at a time.
#pragma once

#include <cstdint>

#include "cuda/kernels/ptx.cuh"

namespace softmoe::cuda {

struct bfloat16 {
  std::uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16 x) {
  return __uint_as_float(static_cast<std::uint32_t>(x.bits) << 16);
}

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
  return {static_cast<std::uint16_t>(ptx::pack_bfloat16(x, 0.0f))};
}

// `x` as it would be read back after being stored as T.
template <class T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

__device__ __forceinline__ float low_bfloat16(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bfloat16(std::uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Four consecutive elements; the address is a multiple of their size.
__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 load4(const bfloat16* p) {
  const uint2 pairs = *reinterpret_cast<const uint2*>(p);
  return make_float4(low_bfloat16(pairs.x), high_bfloat16(pairs.x), low_bfloat16(pairs.y),
                     high_bfloat16(pairs.y));
}
__device__ __forceinline__ void store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
__device__ __forceinline__ void store4(bfloat16* p, float4 v) {
  *reinterpret_cast<uint2*>(p) = make_uint2(ptx::pack_bfloat16(v.x, v.y), ptx::pack_bfloat16(v.z, v.w));
}

// The first `count` (0 … 4) of four elements, zeros for the rest, in one access if `aligned`.
template <class T>
__device__ __forceinline__ float4 load4_partial(const T* p, int count, bool aligned) {
  if (aligned && count >= 4) return load4(p);
  float4 v = make_float4(0, 0, 0, 0);
  if (count > 0) v.x = to_float(p[0]);
  if (count > 1) v.y = to_float(p[1]);
  if (count > 2) v.z = to_float(p[2]);
  if (count > 3) v.w = to_float(p[3]);
  return v;
}
template <class T>
__device__ __forceinline__ void store4_partial(T* p, float4 v, int count, bool aligned) {
  if (aligned && count >= 4) {
    store4(p, v);
    return;
  }
  if (count > 0) p[0] = from_float<T>(v.x);
  if (count > 1) p[1] = from_float<T>(v.y);
  if (count > 2) p[2] = from_float<T>(v.z);
  if (count > 3) p[3] = from_float<T>(v.w);
}

// Stores or adds `count` (at most 4) numbers at element `at` of the output that `p` describes.
template <class Params>
__device__ __forceinline__ void store4_output(const Params& p, std::size_t at, float4 v, int count) {
  const auto store_to = [&](auto* y) {
    if (p.accumulate) {
      const float4 old = load4_partial(y, count, p.y_aligned);
      v = make_float4(v.x + old.x, v.y + old.y, v.z + old.z, v.w + old.w);
    }
    store4_partial(y, v, count, p.y_aligned);
  };
  if (p.y_is_float) {
    store_to(static_cast<float*>(p.y) + at);
  } else {
    store_to(static_cast<bfloat16*>(p.y) + at);
  }
}

}  // namespace softmoe::cuda
