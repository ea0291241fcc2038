// Float32 on tensor cores: an operand is the sum of two tf32 halves, and three of the four products of halves
// are summed (the one of both rests is below float32's own rounding).
#pragma once

#include "cuda/kernels/ptx.cuh"

namespace softmoe::cuda {

// x = hi + rest, both tf32.
template <int kCount>
__device__ __forceinline__ void split_tf32(std::uint32_t (&x)[kCount], std::uint32_t (&rest)[kCount]) {
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    const float value = __uint_as_float(x[e]);
    x[e] = ptx::to_tf32(value);
    rest[e] = ptx::to_tf32(value - __uint_as_float(x[e]));
  }
}

}  // namespace softmoe::cuda
