// Cross-entropies and argmax per row of logits.
//
// With target t_c = (1 - smoothing) [c = label] + smoothing / classes, which sums to 1, and top = max x:
//   softmax   loss = ln(sum exp(x - top)) - (1 - smoothing) (x_label - top) - smoothing mean(x - top)
//             gradient softmax(x) - t
//   sigmoid   loss = sum of max(x, 0) - t x + ln(1 + exp(-|x|)), gradient 1 / (1 + exp(-x)) - t
// A row is read twice; nothing but the loss is kept for the backward, which makes the softmax again.
#include <cstdint>

#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/vector_math.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

const float kInfinity = __builtin_inff();

// A NaN is passed over here; it reaches the result by the sums.
template <class T>
float largest_of(const T* x, std::int64_t count) {
  Vec largest = splat(-kInfinity);
  by_vectors(0, count, [&](std::int64_t i, std::int64_t n) {
    largest = max(keep_first(load_some(x + i, n), n, -kInfinity), largest);
  });
  return max_lanes(largest);
}

template <class T>
float sum_of_exponentials(const T* x, std::int64_t count, float top) {
  return sum_of(count, [&](std::int64_t i, std::int64_t n) {
    return keep_first(exp(load_some(x + i, n) - top), n, 0.0f);
  });
}

template <class T>
float mean_distance(const T* x, std::int64_t count, float top) {
  const float sum = sum_of(
      count, [&](std::int64_t i, std::int64_t n) { return keep_first(load_some(x + i, n) - top, n, 0.0f); });
  return sum / static_cast<float>(count);
}

// ln(1 + e) for e in [0, 1], also to relative accuracy where e is tiny: the rounding of 1 + e is divided out.
inline Vec log_one_plus(Vec e) {
  const Vec sum = 1.0f + e;
  const Vec added = sum - 1.0f;
  return added == 0.0f ? e : log(sum) * (e / added);
}

template <class T>
float softmax_loss(const T* x, std::int64_t classes, std::int64_t label, float smoothing) {
  const float top = largest_of(x, classes);
  float loss =
      log(splat(sum_of_exponentials(x, classes, top)))[0] - (1 - smoothing) * (to_float(x[label]) - top);
  if (smoothing != 0) loss -= smoothing * mean_distance(x, classes, top);
  return loss;
}

template <class T>
float sigmoid_loss(const T* x, std::int64_t classes, std::int64_t label, float smoothing) {
  const float off_target = smoothing / static_cast<float>(classes);
  const float sum = sum_of(classes, [&](std::int64_t i, std::int64_t n) {
    const Vec v = load_some(x + i, n);
    // With v on the right, max gives a NaN on.
    const Vec positive = max(splat(0.0f), v);
    return keep_first(positive - off_target * v + log_one_plus(exp(-abs(v))), n, 0.0f);
  });
  return sum - (1 - smoothing) * to_float(x[label]);
}

}  // namespace

void CpuKernels::run(const CrossEntropyForward& args) {
  const std::int64_t classes = args.classes;
  const float smoothing = static_cast<float>(args.smoothing);
  with_float_type(args.logits.dtype, [&](auto type) {
    for_rows(pool, args.rows, 4 * classes, [&](std::int64_t row, int) {
      const auto* x = args.logits.as<const decltype(type)>() + row * classes;
      const std::int64_t label = args.labels.as<std::int32_t>()[row];
      float loss = __builtin_nanf("");
      if (label >= 0 && label < classes) {
        loss = args.kind == CrossEntropyKind::kSoftmax ? softmax_loss(x, classes, label, smoothing)
                                                       : sigmoid_loss(x, classes, label, smoothing);
      }
      args.losses.as<float>()[row] = loss;
    });
  });
}

void CpuKernels::run(const CrossEntropyBackward& args) {
  const std::int64_t classes = args.classes;
  const float smoothing = static_cast<float>(args.smoothing);
  const float off_target = smoothing / static_cast<float>(classes);
  with_float_types(args.logits.dtype, args.dlogits.dtype, [&](auto x_type, auto dx_type) {
    using Dx = decltype(dx_type);
    for_rows(pool, args.rows, 4 * classes, [&](std::int64_t row, int) {
      const auto* x = args.logits.as<const decltype(x_type)>() + row * classes;
      Dx* dx = args.dlogits.as<Dx>() + row * classes;
      const std::int64_t label = args.labels.as<std::int32_t>()[row];
      const bool is_valid = label >= 0 && label < classes;
      const float dloss = is_valid ? args.dlosses.as<float>()[row] : __builtin_nanf("");
      const bool is_softmax = args.kind == CrossEntropyKind::kSoftmax;
      const float top = is_softmax ? largest_of(x, classes) : 0;
      const float factor = is_softmax ? 1.0f / sum_of_exponentials(x, classes, top) : 0;
      const auto probability = [&](Vec v) { return is_softmax ? exp(v - top) * factor : sigmoid(v); };
      by_vectors(0, classes, [&](std::int64_t i, std::int64_t n) {
        store_some(dx + i, dloss * (probability(load_some(x + i, n)) - off_target), n);
      });
      if (is_valid) {
        const float at_label = probability(splat(to_float(x[label])))[0];
        dx[label] = from_float<Dx>(dloss * (at_label - off_target - (1 - smoothing)));
      }
    });
  });
}

void CpuKernels::run(const ArgMax& args) {
  const std::int64_t columns = args.columns;
  with_float_type(args.x.dtype, [&](auto type) {
    for_rows(pool, args.rows, columns, [&](std::int64_t row, int) {
      const auto* x = args.x.as<const decltype(type)>() + row * columns;
      const float top = largest_of(x, columns);
      std::int64_t index = 0;
      while (index < columns && !(to_float(x[index]) == top)) ++index;
      // Nothing equals -infinity where all are NaN: the first then.
      args.y.as<std::int32_t>()[row] = static_cast<std::int32_t>(index < columns ? index : 0);
    });
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
