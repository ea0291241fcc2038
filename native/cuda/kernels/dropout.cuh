// Inverted dropout by counter: the factor of an element depends on the key and its index alone.
#pragma once

#include "core/philox.h"

namespace softmoe::cuda {

// Zero or 1 / (1 - rate) for four consecutive elements from `index`.
__device__ __forceinline__ float4 dropout_factors(const RandomKey& key, std::int64_t index, float rate) {
  const float kept = 1.0f / (1.0f - rate);
  float factor[4];
  if (index % 4 == 0) {
    const PhiloxBlock block = philox(key, static_cast<std::uint64_t>(index / 4));
#pragma unroll
    for (int e = 0; e < 4; ++e) factor[e] = uniform_from_word(block.word[e]) < rate ? 0.0f : kept;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const std::uint64_t at = static_cast<std::uint64_t>(index + e);
      const PhiloxBlock block = philox(key, at / 4);
      // Selected rather than indexed: an indexed array would live in local memory.
      const std::uint32_t even = at % 4 < 2 ? block.word[0] : block.word[2];
      const std::uint32_t odd = at % 4 < 2 ? block.word[1] : block.word[3];
      factor[e] = uniform_from_word(at % 2 == 0 ? even : odd) < rate ? 0.0f : kept;
    }
  }
  return make_float4(factor[0], factor[1], factor[2], factor[3]);
}

}  // namespace softmoe::cuda
