#include "ops/experts.h"

#include "ops/expert_rows.h"

namespace softmoe::ops {

namespace {

ExpertShapes check_experts(const Check& check, const char* operation, const Tensor& x,
                           const std::optional<Tensor>& offsets, const std::optional<Tensor>& gather,
                           const Tensor& w1, const Tensor& w2) {
  check.same_device({&x, pointer(offsets), pointer(gather), &w1, &w2});
  check.floating("x", x);
  check.same_dtype("w1", w1, "x", x);
  check.same_dtype("w2", w2, "x", x);
  check.rank("w1", w1, 3, "[experts, dim, hidden]");
  check.rank("w2", w2, 3, "[experts, hidden, out]");
  const ExpertExtents extents{w1.shape()[0], w1.shape()[1], w1.shape()[2], w2.shape()[2]};
  check.shape("w2", w2, {extents.num_experts, extents.hidden, extents.out}, "[experts, hidden, out]");
  return check_expert_rows(check, operation, x, offsets, gather, extents);
}

}  // namespace

std::tuple<Tensor, std::optional<Tensor>> experts(const Tensor& x, const std::optional<Tensor>& offsets,
                                                  const std::optional<Tensor>& gather, const Tensor& w1,
                                                  const Tensor& b1, const Tensor& w2, const Tensor& b2,
                                                  Activation activation, double dropout_rate,
                                                  const RandomKey& key, bool save_pre) {
  const Check check("experts");
  const ExpertShapes shapes = check_experts(check, ExpertsForward::kName, x, offsets, gather, w1, w2);
  check.same_device({&x, &b1, &b2});
  check.shape("b1", b1, {shapes.num_experts, shapes.hidden}, "[experts, hidden]");
  check.shape("b2", b2, {shapes.num_experts, shapes.out}, "[experts, out]");
  check.dtype("b1", b1, DType::kFloat32);
  check.dtype("b2", b2, DType::kFloat32);
  check.probability("dropoutRate", dropout_rate);
  const Tensor y = Tensor::empty(x.device(), shapes.output_shape, x.dtype());
  std::optional<Tensor> pre;
  if (save_pre) pre = Tensor::empty(x.device(), shapes.hidden_shape, x.dtype());
  ExpertsForward args;
  args.rows = shapes.rows;
  args.x = x.buffer();
  args.w1 = w1.buffer();
  args.b1 = b1.buffer();
  args.w2 = w2.buffer();
  args.b2 = b2.buffer();
  args.pre = buffer(pre);
  args.y = y.buffer();
  args.dim = shapes.dim;
  args.hidden = shapes.hidden;
  args.out = shapes.out;
  args.activation = activation;
  args.dropout_rate = dropout_rate;
  args.key = key;
  launch_experts(*x.device(), args, shapes);
  return {y, pre};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> experts_backward(
    const Tensor& x, const std::optional<Tensor>& offsets, const std::optional<Tensor>& gather,
    const Tensor& w1, const Tensor& w2, const Tensor& pre, const Tensor& dy, Activation activation,
    double dropout_rate, const RandomKey& key) {
  const Check check("experts_backward");
  const ExpertShapes shapes = check_experts(check, ExpertsBackward::kName, x, offsets, gather, w1, w2);
  check.same_device({&x, &pre, &dy});
  check.same_dtype("dy", dy, "x", x);
  check.same_dtype("pre", pre, "x", x);
  check.that(dy.shape() == shapes.output_shape,
             "dy has shape " + dy.shape().text() + "; wanted " + shapes.output_shape.text());
  check.that(pre.shape() == shapes.hidden_shape,
             "pre has shape " + pre.shape().text() + "; wanted " + shapes.hidden_shape.text());
  const std::int64_t count = shapes.num_experts;
  const Shape dx_shape = offsets ? Shape{shapes.rows.max_rows, shapes.dim} : x.shape();
  const Tensor dx = Tensor::empty(x.device(), dx_shape, x.dtype());
  const Tensor dw1 = Tensor::empty(x.device(), w1.shape(), DType::kFloat32);
  const Tensor db1 = Tensor::empty(x.device(), {count, shapes.hidden}, DType::kFloat32);
  const Tensor dw2 = Tensor::empty(x.device(), w2.shape(), DType::kFloat32);
  const Tensor db2 = Tensor::empty(x.device(), {count, shapes.out}, DType::kFloat32);
  ExpertsBackward args;
  args.rows = shapes.rows;
  args.x = x.buffer();
  args.w1 = w1.buffer();
  args.w2 = w2.buffer();
  args.pre = pre.buffer();
  args.dy = dy.buffer();
  args.dx = dx.buffer();
  args.dw1 = dw1.buffer();
  args.db1 = db1.buffer();
  args.dw2 = dw2.buffer();
  args.db2 = db2.buffer();
  args.dim = shapes.dim;
  args.hidden = shapes.hidden;
  args.out = shapes.out;
  args.activation = activation;
  args.dropout_rate = dropout_rate;
  args.key = key;
  launch_experts(*x.device(), args, shapes);
  return {dx, dw1, db1, dw2, db2};
}

}  // namespace softmoe::ops
