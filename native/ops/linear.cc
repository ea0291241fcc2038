#include "ops/linear.h"

#include "ops/check.h"

namespace softmoe::ops {

namespace {

Shape with_last(const Shape& shape, std::int64_t last) {
  std::int64_t dims[Shape::kMaxRank];
  for (int i = 0; i < shape.rank(); ++i) dims[i] = i + 1 == shape.rank() ? last : shape[i];
  return Shape(dims, shape.rank());
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double alpha,
              DType dtype) {
  const Check check("matmul");
  check.same_device({&a, &b});
  check.floating("a", a);
  check.same_dtype("b", b, "a", a);
  check.min_rank("a", a, 2, "[..., m, k]");
  check.that(dtype == DType::kFloat32 || dtype == a.dtype(),
             "the result is float32 or has the operands' dtype");
  check.finite("alpha", alpha);
  const int rank = a.shape().rank();
  check.that(b.shape().rank() == rank, "a has shape " + a.shape().text() + ", b has shape " +
                                           b.shape().text() + "; their ranks must be the same");
  for (int i = 0; i + 2 < rank; ++i) {
    check.that(a.shape()[i] == b.shape()[i],
               "batch axes of a " + a.shape().text() + " and b " + b.shape().text() + " differ");
  }
  MatMul args;
  args.batch = a.shape().count_before(rank - 2);
  args.m = a.shape()[transpose_a ? -1 : -2];
  args.k = a.shape()[transpose_a ? -2 : -1];
  args.n = b.shape()[transpose_b ? -2 : -1];
  const std::int64_t k = b.shape()[transpose_b ? -1 : -2];
  check.that(args.k == k, "the inner extents " + std::to_string(args.k) + " of a " + a.shape().text() +
                              " and " + std::to_string(k) + " of b " + b.shape().text() + " differ");
  std::int64_t dims[Shape::kMaxRank];
  for (int i = 0; i + 2 < rank; ++i) dims[i] = a.shape()[i];
  dims[rank - 2] = args.m;
  dims[rank - 1] = args.n;
  const Tensor y = Tensor::empty(a.device(), Shape(dims, rank), dtype);
  args.a = a.buffer();
  args.b = b.buffer();
  args.y = y.buffer();
  args.transpose_a = transpose_a;
  args.transpose_b = transpose_b;
  args.alpha = alpha;
  a.device()->launch(args);
  return y;
}

std::tuple<Tensor, std::optional<Tensor>> linear(const Tensor& x, const Tensor& w,
                                                 const std::optional<Tensor>& bias, Activation activation,
                                                 bool save_pre, DType dtype) {
  const Check check("linear");
  check.same_device({&x, &w, pointer(bias)});
  check.floating("x", x);
  check.same_dtype("w", w, "x", x);
  check.min_rank("x", x, 1, "[..., in]");
  check.rank("w", w, 2, "[in, out]");
  const std::int64_t in = x.shape()[-1], out = w.shape()[1];
  check.shape("w", w, {in, out}, "[in, out]");
  check.that(dtype == DType::kFloat32 || dtype == x.dtype(), "the result is float32 or has x's dtype");
  if (bias) {
    check.shape("bias", *bias, {out}, "[out]");
    check.dtype("bias", *bias, DType::kFloat32);
  }
  const Shape shape = with_last(x.shape(), out);
  const Tensor y = Tensor::empty(x.device(), shape, dtype);
  std::optional<Tensor> pre;
  if (save_pre) pre = Tensor::empty(x.device(), shape, x.dtype());
  LinearForward args;
  args.x = x.buffer();
  args.w = w.buffer();
  args.bias = buffer(bias);
  args.pre = buffer(pre);
  args.y = y.buffer();
  args.rows = x.shape().count_before(x.shape().rank() - 1);
  args.in = in;
  args.out = out;
  args.activation = activation;
  x.device()->launch(args);
  return {y, pre};
}

Tensor linear_backward_input(const Tensor& dy, const Tensor& w) {
  const Check check("linear_backward_input");
  check.same_device({&dy, &w});
  check.same_dtype("w", w, "dy", dy);
  check.rank("w", w, 2, "[in, out]");
  check.that(dy.shape().rank() > 0 && dy.shape()[-1] == w.shape()[1],
             "dy has shape " + dy.shape().text() + ", w has shape " + w.shape().text());
  const Tensor dx = Tensor::empty(dy.device(), with_last(dy.shape(), w.shape()[0]), w.dtype());
  LinearBackwardInput args;
  args.dy = dy.buffer();
  args.w = w.buffer();
  args.dx = dx.buffer();
  args.rows = dy.shape().count_before(dy.shape().rank() - 1);
  args.in = w.shape()[0];
  args.out = w.shape()[1];
  dy.device()->launch(args);
  return dx;
}

std::tuple<Tensor, std::optional<Tensor>> linear_backward_weight(const Tensor& x, const Tensor& dy,
                                                                 bool with_bias) {
  const Check check("linear_backward_weight");
  check.same_device({&x, &dy});
  check.same_dtype("dy", dy, "x", x);
  check.min_rank("x", x, 1, "[..., in]");
  check.min_rank("dy", dy, 1, "[..., out]");
  LinearBackwardWeight args;
  args.rows = x.shape().count_before(x.shape().rank() - 1);
  args.in = x.shape()[-1];
  args.out = dy.shape()[-1];
  check.that(dy.shape().count_before(dy.shape().rank() - 1) == args.rows,
             "x has shape " + x.shape().text() + ", dy has shape " + dy.shape().text());
  const Tensor dw = Tensor::empty(x.device(), {args.in, args.out}, DType::kFloat32);
  std::optional<Tensor> dbias;
  if (with_bias) dbias = Tensor::empty(x.device(), {args.out}, DType::kFloat32);
  args.x = x.buffer();
  args.dy = dy.buffer();
  args.dw = dw.buffer();
  args.dbias = buffer(dbias);
  x.device()->launch(args);
  return {dw, dbias};
}

}  // namespace softmoe::ops
