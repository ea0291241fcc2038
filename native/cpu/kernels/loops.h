// Loops over elements by vectors, and the choice of element types. Include after cpu/kernels/isa.h.
#pragma once

#include "core/dtype.h"
#include "cpu/kernels/simd.h"
#include "cpu/thread_pool.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// Elements of a chunk of an elementwise loop: enough work to be worth another thread.
constexpr std::int64_t kElementGrain = 16384;

// Rows of a chunk when a row is `row_elements` elements of work.
inline std::int64_t row_grain(std::int64_t row_elements) {
  return larger<std::int64_t>(1, kElementGrain / larger<std::int64_t>(1, row_elements));
}

// body(row, worker) for all rows, in parallel, where a row is `row_elements` elements of work.
template <class Body>
inline void for_rows(ThreadPool& pool, std::int64_t rows, std::int64_t row_elements, const Body& body) {
  pool.parallel_for(rows, row_grain(row_elements), [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t row = begin; row < end; ++row) body(row, worker);
  });
}

// body(i, count) for i in [begin, end) by vectors; count is kLanes but for the last.
template <class Body>
inline void by_vectors(std::int64_t begin, std::int64_t end, const Body& body) {
  std::int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, static_cast<std::int64_t>(kLanes));
  if (i < end) body(i, end - i);
}

// Sum over [0, count) of f(i, n), whose lanes at or beyond n are zero. Four vectors are summed side by side,
// so that additions need not wait for each other, and long sums are made of blocks, so that their rounding
// errors grow slowly. The order depends on `count` alone.
template <class Function>
inline float sum_of(std::int64_t count, const Function& f) {
  constexpr std::int64_t kStep = 4 * kLanes, kBlock = 16 * kStep;
  Vec total{};
  std::int64_t i = 0;
  while (count - i >= kStep) {
    Vec sums[4] = {};
    const std::int64_t end = smaller(i + kBlock, i + (count - i) / kStep * kStep);
    for (; i < end; i += kStep) {
      for (int v = 0; v < 4; ++v) sums[v] += f(i + v * kLanes, static_cast<std::int64_t>(kLanes));
    }
    total += (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  by_vectors(i, count, [&](std::int64_t at, std::int64_t n) { total += f(at, n); });
  return sum_lanes(total);
}

// call(T{}) with the element type of a float32 or bfloat16 buffer.
template <class Call>
inline void with_float_type(DType dtype, const Call& call) {
  if (dtype == DType::kBFloat16) {
    call(BFloat16{});
  } else {
    call(float{});
  }
}
template <class Call>
inline void with_float_types(DType first, DType second, const Call& call) {
  with_float_type(first, [&](auto a) { with_float_type(second, [&](auto b) { call(a, b); }); });
}
template <class Call>
inline void with_float_types(DType first, DType second, DType third, const Call& call) {
  with_float_types(first, second,
                   [&](auto a, auto b) { with_float_type(third, [&](auto c) { call(a, b, c); }); });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
