// Losses per row of logits.
#pragma once

#include "core/tensor.h"

namespace softmoe::ops {

// logits [rows, classes], labels int32 [rows] -> losses float32 [rows].
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, CrossEntropyKind kind, double smoothing);
Tensor cross_entropy_backward(const Tensor& logits, const Tensor& labels, const Tensor& dlosses,
                              CrossEntropyKind kind, double smoothing);
// x [..., columns] -> int32 [...].
Tensor argmax(const Tensor& x);

}  // namespace softmoe::ops
