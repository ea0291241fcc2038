// Dot products of rows, summed lane by lane in ascending order and then pairwise.
#pragma once

#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {

template <class A, class B>
inline float dot(const A* a, const B* b, std::int64_t count) {
  Vec sum{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum += load(a + i) * load(b + i);
  if (i < count) sum += load_partial(a + i, count - i) * load_partial(b + i, count - i);
  return sum_lanes(sum);
}

// The inverse norm from a sum of squares: 1 / sqrt(s + eps) or 1 / (sqrt(s) + eps).
inline Vec inverse_norm(Vec squares, float eps, bool eps_inside_root) {
  return eps_inside_root ? 1.0f / sqrt(squares + eps) : 1.0f / (sqrt(squares) + eps);
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
