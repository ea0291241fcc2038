// Inverted dropout by counter: the factor of an element depends on the key and its index alone.
#pragma once

#include "core/philox.h"

namespace softmoe::cuda {

// Zero or 1 / (1 - rate) for one element.
__device__ __forceinline__ float dropout_factor(const RandomKey& key, std::int64_t index, float rate) {
  const PhiloxBlock block = philox(key, static_cast<std::uint64_t>(index / 4));
  // Selected rather than indexed: an indexed array would live in local memory.
  const std::uint32_t even = index % 4 < 2 ? block.word[0] : block.word[2];
  const std::uint32_t odd = index % 4 < 2 ? block.word[1] : block.word[3];
  return uniform_from_word(index % 2 == 0 ? even : odd) < rate ? 0.0f : 1.0f / (1.0f - rate);
}

// The same for four consecutive elements from `index`: one block of random numbers where they share it.
__device__ __forceinline__ float4 dropout_factors(const RandomKey& key, std::int64_t index, float rate) {
  float factor[4];
  if (index % 4 == 0) {
    const float kept = 1.0f / (1.0f - rate);
    const PhiloxBlock block = philox(key, static_cast<std::uint64_t>(index / 4));
#pragma unroll
    for (int e = 0; e < 4; ++e) factor[e] = uniform_from_word(block.word[e]) < rate ? 0.0f : kept;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) factor[e] = dropout_factor(key, index + e, rate);
  }
  return make_float4(factor[0], factor[1], factor[2], factor[3]);
}

}  // namespace softmoe::cuda
