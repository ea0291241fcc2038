// Sums over rows, in ascending order of the rows: the gradients of biases.
#pragma once

#include "cpu/kernels/simd.h"
#include "cpu/thread_pool.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// sums[c] = sum over rows of x[row, c] for columns [begin, end) of x [rows, columns].
template <class T>
inline void column_sums_of_range(const T* x, std::int64_t rows, std::int64_t columns, std::int64_t begin,
                                 std::int64_t end, float* sums) {
  constexpr int kVectors = 4;
  for (std::int64_t c = begin; c < end; c += kVectors * kLanes) {
    Vec total[kVectors] = {};
    const std::int64_t left = end - c;
    if (left >= kVectors * kLanes) {
      for (std::int64_t r = 0; r < rows; ++r) {
        for (int v = 0; v < kVectors; ++v) total[v] += load(x + r * columns + c + v * kLanes);
      }
    } else {
      for (std::int64_t r = 0; r < rows; ++r) {
        for (int v = 0; v * kLanes < left; ++v) {
          total[v] += load_some(x + r * columns + c + v * kLanes, left - v * kLanes);
        }
      }
    }
    for (int v = 0; v < kVectors && v * kLanes < left; ++v) {
      store_some(sums + c + v * kLanes, total[v], left - v * kLanes);
    }
  }
}

template <class T>
inline void column_sums(ThreadPool& pool, const T* x, std::int64_t rows, std::int64_t columns, float* sums) {
  constexpr std::int64_t kGrain = 8 * kLanes;
  pool.parallel_for(columns, kGrain, [&](std::int64_t begin, std::int64_t end, int) {
    column_sums_of_range(x, rows, columns, begin, end, sums);
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
