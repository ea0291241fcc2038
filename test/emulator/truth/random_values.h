// Reproducible values for tests: a 64-bit xorshift (Marsaglia, "Xorshift RNGs").
#pragma once

#include <cstdint>
#include <vector>

namespace truth {

class RandomValues {
 public:
  explicit RandomValues(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}

  std::uint32_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<std::uint32_t>(state_ >> 32);
  }
  float uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(bits() >> 8) / 16777216.f;
  }
  std::vector<float> floats(std::size_t count, float low, float high) {
    std::vector<float> values(count);
    for (float& value : values) value = uniform(low, high);
    return values;
  }
  std::vector<int> integers(std::size_t count, int low, int high) {
    std::vector<int> values(count);
    for (int& value : values) value = low + static_cast<int>(bits() % static_cast<unsigned>(high - low + 1));
    return values;
  }

 private:
  std::uint64_t state_;
};

}  // namespace truth
