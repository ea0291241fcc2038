// Losses per row of logits.
#pragma once

#include "core/dtype.h"

namespace softmoe {

enum class CrossEntropyKind : std::uint8_t { kSoftmax, kSigmoid };

// losses[r] (float32) of logits [rows, classes] against labels int32 [rows]. The target is
// (1 - smoothing) * one_hot + smoothing / classes. Softmax: -sum target * log_softmax. Sigmoid: sum over
// classes of the binary cross-entropies. A label outside [0, classes) gives a NaN loss and NaN gradients.
struct CrossEntropyForward {
  static constexpr const char* kName = "cross_entropy";
  Buffer logits, labels, losses;
  std::int64_t rows = 0, classes = 0;
  CrossEntropyKind kind = CrossEntropyKind::kSoftmax;
  double smoothing = 0;
};

// dlogits[r] = dlosses[r] * d losses[r] / d logits[r].
struct CrossEntropyBackward {
  static constexpr const char* kName = "cross_entropy_backward";
  Buffer logits, labels, dlosses, dlogits;
  std::int64_t rows = 0, classes = 0;
  CrossEntropyKind kind = CrossEntropyKind::kSoftmax;
  double smoothing = 0;
};

// y[r] (int32) = index of the largest element of row r; ties go to the lower index, NaN counts as -infinity.
struct ArgMax {
  static constexpr const char* kName = "argmax";
  Buffer x, y;
  std::int64_t rows = 0, columns = 0;
};

}  // namespace softmoe
