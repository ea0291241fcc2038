// Random cases for the tests of kernels, and what they compare with.
#pragma once

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "cpu/thread_pool.h"
#include "testing.h"

namespace softmoe::testing {

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool boolean() { return integer(0, 1) == 1; }
  template <class T>
  T choose(std::initializer_list<T> options) {
    return *(options.begin() + integer(0, static_cast<std::int64_t>(options.size()) - 1));
  }
  // Empty, single, prime, around the sizes of vectors and tiles.
  std::int64_t awkward_size() {
    return choose<std::int64_t>(
        {0, 1, 2, 3, 5, 7, 13, 14, 15, 16, 17, 29, 31, 32, 33, 47, 64, 97, integer(1, 200)});
  }
  DType dtype() { return choose({DType::kFloat32, DType::kBFloat16}); }
  Values values(DType dtype, std::int64_t count, double scale = 1) {
    return Values(dtype, normals(count, static_cast<std::uint32_t>(engine_()), scale));
  }

 private:
  std::mt19937 engine_;
};

// Runs `body` for each seed, which is named if it fails.
template <class Body>
void for_random_cases(int rounds, const Body& body) {
  for (int seed = 1; seed <= rounds; ++seed) {
    const Context context("seed " + std::to_string(seed));
    Random random(static_cast<std::uint32_t>(seed));
    body(random);
  }
}

// `run` must fill `results` with the same bits on any number of threads.
template <class Run>
void check_same_on_any_threads(const Run& run, const std::vector<const Values*>& results) {
  const int before = cpu::ThreadPool::instance().threads();
  std::vector<Values> first;
  for (const int threads : {1, 2, 5}) {
    cpu::ThreadPool::instance().set_threads(threads);
    run();
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (threads == 1) {
        first.push_back(*results[i]);
      } else {
        CHECK(results[i]->same_bits(first[i]));
      }
    }
  }
  cpu::ThreadPool::instance().set_threads(before);
}

// Result of rounding to `dtype`, times what accumulates on the way.
inline double tolerance_of(DType dtype) { return dtype == DType::kBFloat16 ? 6e-3 : 2e-5; }

// The part of a buffer from element `first`.
inline Buffer part(const Values& values, std::int64_t first) {
  Buffer buffer = values.buffer();
  buffer.data = static_cast<char*>(buffer.data) + first * static_cast<std::int64_t>(size_of(buffer.dtype));
  return buffer;
}

inline double activation_value(Activation activation, double x) {
  switch (activation) {
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kNone:
      break;
  }
  return x;
}
inline double activation_slope(Activation activation, double x) {
  const double h = 1e-5;
  return (activation_value(activation, x + h) - activation_value(activation, x - h)) / (2 * h);
}

}  // namespace softmoe::testing
