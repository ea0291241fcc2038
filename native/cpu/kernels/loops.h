// Loops over elements by vectors, and the choice of element types. Include after cpu/kernels/isa.h.
#pragma once

#include "core/dtype.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// Elements of a chunk of an elementwise loop: enough work to be worth another thread.
constexpr std::int64_t kElementGrain = 16384;

// Rows of a chunk when a row is `row_elements` elements of work.
inline std::int64_t row_grain(std::int64_t row_elements) {
  return larger<std::int64_t>(1, kElementGrain / larger<std::int64_t>(1, row_elements));
}

// body(i, count) for i in [begin, end) by vectors; count is kLanes but for the last.
template <class Body>
inline void by_vectors(std::int64_t begin, std::int64_t end, const Body& body) {
  std::int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, static_cast<std::int64_t>(kLanes));
  if (i < end) body(i, end - i);
}

// Sum over [0, count) of f(i, n), whose lanes at or beyond n are zero. Long sums are made of blocks of 512
// elements, so that their rounding errors grow slowly; the order depends on `count` alone.
template <class Function>
inline float sum_of(std::int64_t count, const Function& f) {
  constexpr std::int64_t kBlock = 512;
  Vec total{};
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    Vec sum{};
    by_vectors(begin, smaller(count, begin + kBlock),
               [&](std::int64_t i, std::int64_t n) { sum += f(i, n); });
    total += sum;
  }
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
