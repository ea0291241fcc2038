#include "ops/loss.h"

#include "ops/check.h"

namespace softmoe::ops {

namespace {

void check_operands(const Check& check, const Tensor& logits, const Tensor& labels, double smoothing) {
  check.same_device({&logits, &labels});
  check.floating("logits", logits);
  check.rank("logits", logits, 2, "[rows, classes]");
  check.shape("labels", labels, {logits.shape()[0]}, "[rows]");
  check.dtype("labels", labels, DType::kInt32);
  check.probability("labelSmoothing", smoothing);
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& labels, CrossEntropyKind kind, double smoothing) {
  const Check check("cross_entropy");
  check_operands(check, logits, labels, smoothing);
  const Tensor losses = Tensor::empty(logits.device(), {logits.shape()[0]}, DType::kFloat32);
  CrossEntropyForward args;
  args.logits = logits.buffer();
  args.labels = labels.buffer();
  args.losses = losses.buffer();
  args.rows = logits.shape()[0];
  args.classes = logits.shape()[1];
  args.kind = kind;
  args.smoothing = smoothing;
  logits.device()->launch(args);
  return losses;
}

Tensor cross_entropy_backward(const Tensor& logits, const Tensor& labels, const Tensor& dlosses,
                              CrossEntropyKind kind, double smoothing) {
  const Check check("cross_entropy_backward");
  check_operands(check, logits, labels, smoothing);
  check.shape("dlosses", dlosses, {logits.shape()[0]}, "[rows]");
  check.dtype("dlosses", dlosses, DType::kFloat32);
  const Tensor dlogits = Tensor::empty(logits.device(), logits.shape(), logits.dtype());
  CrossEntropyBackward args;
  args.logits = logits.buffer();
  args.labels = labels.buffer();
  args.dlosses = dlosses.buffer();
  args.dlogits = dlogits.buffer();
  args.rows = logits.shape()[0];
  args.classes = logits.shape()[1];
  args.kind = kind;
  args.smoothing = smoothing;
  logits.device()->launch(args);
  return dlogits;
}

Tensor argmax(const Tensor& x) {
  const Check check("argmax");
  check.floating("x", x);
  check.min_rank("x", x, 1, "[..., columns]");
  check.that(x.shape()[-1] > 0, "x has shape " + x.shape().text() + "; wanted at least one column");
  std::int64_t dims[Shape::kMaxRank];
  for (int i = 0; i + 1 < x.shape().rank(); ++i) dims[i] = x.shape()[i];
  const Tensor y = Tensor::empty(x.device(), Shape(dims, x.shape().rank() - 1), DType::kInt32);
  x.device()->launch(ArgMax{x.buffer(), y.buffer(), y.count(), x.shape()[-1]});
  return y;
}

}  // namespace softmoe::ops
