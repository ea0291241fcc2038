// Dropout inside other kernels: the factors 0 or 1 / (1 - rate) of neighbouring elements.
#pragma once

#include "core/philox.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {

class DropoutFactors {
 public:
  DropoutFactors(const RandomKey& key, double rate)
      : key_(key), rate_(static_cast<float>(rate)), kept_(static_cast<float>(1 / (1 - rate))) {}
  bool any() const { return rate_ > 0; }

  // Of the elements index … index + count - 1, count <= kLanes.
  Vec at(std::int64_t index, std::int64_t count) const {
    alignas(64) float factors[kLanes] = {};
    for (std::int64_t i = index / 4 * 4; i < index + count; i += 4) {
      const PhiloxBlock block = philox(key_, static_cast<std::uint64_t>(i / 4));
      for (std::int64_t word = 0; word < 4; ++word) {
        const std::int64_t lane = i + word - index;
        if (lane >= 0 && lane < count) {
          factors[lane] = uniform_from_word(block.word[word]) < rate_ ? 0.0f : kept_;
        }
      }
    }
    return load(factors);
  }

 private:
  RandomKey key_;
  float rate_, kept_;
};

}  // namespace softmoe::cpu::SOFTMOE_ISA
