// Inverted dropout of single elements, for kernels whose threads hold no four neighbours (dropout.cuh).
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

}  // namespace softmoe::cuda
