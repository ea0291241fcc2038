// Cross-entropies and argmax per row of logits, a team of threads a row.
//
// With target t_c = (1 - smoothing) [c = label] + smoothing / classes, which sums to 1, and top = max x:
//   softmax   loss = ln(sum exp(x - top)) - (1 - smoothing) (x_label - top) - smoothing mean(x - top)
//             gradient softmax(x) - t
//   sigmoid   loss = sum of max(x, 0) - t x + ln(1 + exp(-|x|)), gradient 1 / (1 + exp(-x)) - t
// A row stays in registers (row_team.cuh tells of longer ones); nothing but the loss is kept for the
// backward, which makes the softmax again.
#include "cuda/kernels/loss_params.h"
#include "cuda/kernels/row_team.cuh"

namespace softmoe::cuda {

template <class Row>
__device__ __forceinline__ float sum_of_exponentials(const Row& kept, float top) {
  return kept.sum_of([&](float4 x) { return map4(x, [&](float v) { return expf(v - top); }); });
}

template <class Team>
__device__ __forceinline__ void cross_entropy(const CrossEntropyParams& p) {
  const std::int64_t row = Team::row(), first = row * p.classes;
  if (row >= p.rows) return;
  const std::int32_t label = p.labels[row];
  if (label < 0 || label >= p.classes) {
    if (Team::rank() == 0) p.losses[row] = NAN;
    return;
  }
  const float at_label = load(p.logits, first + label);
  const auto load_x = [&](std::int64_t i, int n) { return load4(p.logits, first + i, n); };
  const auto kept = Team::keep(p.classes, load_x);
  float loss;
  if (p.kind == CrossEntropyKind::kSoftmax) {
    const float top = kept.largest();
    loss = logf(sum_of_exponentials(kept, top)) - (1 - p.smoothing) * (at_label - top);
    if (p.smoothing != 0) {
      const float distance = kept.sum_of([&](float4 x) { return map4(x, [&](float v) { return v - top; }); });
      loss -= p.smoothing * (distance / static_cast<float>(p.classes));
    }
  } else {
    const float off_target = p.smoothing / static_cast<float>(p.classes);
    const float sum = kept.sum_of([&](float4 x) {
      return map4(x, [&](float v) {
        // Not fmaxf, which would pass over a NaN.
        return (v < 0 ? 0.0f : v) - off_target * v + log1pf(expf(-fabsf(v)));
      });
    });
    loss = sum - (1 - p.smoothing) * at_label;
  }
  if (Team::rank() == 0) p.losses[row] = loss;
}
SOFTMOE_ROW_KERNELS(cross_entropy, CrossEntropyParams, cross_entropy)

template <class Team>
__device__ __forceinline__ void cross_entropy_backward(const CrossEntropyBackwardParams& p) {
  const std::int64_t row = Team::row(), first = row * p.classes;
  if (row >= p.rows) return;
  const std::int32_t label = p.labels[row];
  const bool is_valid = label >= 0 && label < p.classes;
  const bool is_softmax = p.kind == CrossEntropyKind::kSoftmax;
  const float dloss = is_valid ? p.dlosses[row] : NAN;
  const float off_target = p.smoothing / static_cast<float>(p.classes);
  const auto load_x = [&](std::int64_t i, int n) { return load4(p.logits, first + i, n); };
  const auto kept = Team::keep(p.classes, load_x);
  float top = 0, factor = 0;
  if (is_softmax) {
    top = kept.largest();
    factor = 1.0f / sum_of_exponentials(kept, top);
  }
  const auto gradient = [&](float v, std::int64_t index) {
    const float probability = is_softmax ? expf(v - top) * factor : __fdividef(1.0f, 1.0f + expf(-v));
    return dloss * (probability - off_target - (index == label ? 1 - p.smoothing : 0.0f));
  };
  kept.for_fours([&](std::int64_t i, int n, float4 v) {
    store4(p.dlogits, first + i,
           make_float4(gradient(v.x, i), gradient(v.y, i + 1), gradient(v.z, i + 2), gradient(v.w, i + 3)),
           n);
  });
}
SOFTMOE_ROW_KERNELS(cross_entropy_backward, CrossEntropyBackwardParams, cross_entropy_backward)

// The lowest index of the largest element; 0 where all are NaN.
template <class Team>
__device__ __forceinline__ void argmax(const ArgMaxParams& p) {
  const std::int64_t row = Team::row(), first = row * p.columns;
  if (row >= p.rows) return;
  const auto load_x = [&](std::int64_t i, int n) { return load4(p.x, first + i, n); };
  const auto kept = Team::keep(p.columns, load_x);
  const float top = kept.largest();
  // Indices below 2^24 are exact as float32; longer rows are searched part by part.
  constexpr std::int64_t kExact = std::int64_t{1} << 24;
  for (std::int64_t begin = 0; begin < p.columns; begin += kExact) {
    float nearest = INFINITY;
    kept.for_fours([&](std::int64_t i, int n, float4 v) {
      if (i < begin || i >= begin + kExact) return;
      const auto look = [&](float value, int offset) {
        if (offset < n && value == top) nearest = fminf(nearest, static_cast<float>(i - begin + offset));
      };
      look(v.x, 0), look(v.y, 1), look(v.z, 2), look(v.w, 3);
    });
    nearest = -Team::maximum(-nearest);
    if (nearest == INFINITY) continue;
    if (Team::rank() == 0) p.y[row] = static_cast<std::int32_t>(begin + static_cast<std::int64_t>(nearest));
    return;
  }
  if (Team::rank() == 0) p.y[row] = 0;
}
SOFTMOE_ROW_KERNELS(argmax, ArgMaxParams, argmax)

}  // namespace softmoe::cuda
