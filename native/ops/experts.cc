#include "ops/experts.h"

#include "ops/check.h"
#include "ops/index_checks.h"

namespace softmoe::ops {

namespace {

struct ExpertShapes {
  ExpertRows rows;
  Shape output, hidden;
  std::int64_t dim = 0, hidden_dim = 0, out = 0;
  RowListCheck check;                 // of ragged rows
  std::shared_ptr<IndexProof> proof;  // that they need none
};

template <class Args>
void launch_experts(Device& device, const Args& args, const ExpertShapes& shapes) {
  if (!args.rows.offsets) return device.launch(args);
  launch_on_rows(device, args, shapes.check, shapes.proof, [](Args& checked, const RowLists& lists) {
    checked.rows.offsets = lists.expert_offsets.template as<const std::int32_t>();
    checked.rows.gather = lists.row_token.template as<const std::int32_t>();
  });
}

// Whether what is known of the row lists is enough for these experts and tokens.
bool proves(const IndexProof& proof, const ExpertRows& rows, std::int64_t tokens) {
  return proof.experts == rows.num_experts && proof.rows <= rows.max_rows &&
         (!rows.gather || proof.groups * proof.tokens <= tokens);
}

ExpertShapes check_experts(const Check& check, const char* operation, const Tensor& x,
                           const std::optional<Tensor>& offsets, const std::optional<Tensor>& gather,
                           const Tensor& w1, const Tensor& w2) {
  check.same_device({&x, pointer(offsets), pointer(gather), &w1, &w2});
  check.floating("x", x);
  check.same_dtype("w1", w1, "x", x);
  check.same_dtype("w2", w2, "x", x);
  check.rank("w1", w1, 3, "[experts, dim, hidden]");
  check.rank("w2", w2, 3, "[experts, hidden, out]");
  ExpertShapes shapes;
  const std::int64_t experts = w1.shape()[0];
  shapes.dim = w1.shape()[1];
  shapes.hidden_dim = w1.shape()[2];
  shapes.out = w2.shape()[2];
  check.shape("w2", w2, {experts, shapes.hidden_dim, shapes.out}, "[experts, hidden, out]");
  shapes.rows.num_experts = experts;
  if (offsets) {
    check.shape("offsets", *offsets, {experts + 1}, "[experts + 1]");
    check.dtype("offsets", *offsets, DType::kInt32);
    check.shape("x", x, {Check::kAny, shapes.dim}, "[tokens, dim]");
    shapes.rows.offsets = offsets->buffer().as<const std::int32_t>();
    shapes.rows.max_rows = x.shape()[0];
    if (gather) {
      check.rank("gather", *gather, 1, "[max_rows]");
      check.dtype("gather", *gather, DType::kInt32);
      shapes.rows.gather = gather->buffer().as<const std::int32_t>();
      shapes.rows.max_rows = gather->shape()[0];
    }
    shapes.check.operation = operation;
    shapes.check.lists.expert_offsets = offsets->buffer();
    shapes.check.lists.row_token = buffer(gather);
    shapes.check.lists.max_rows = shapes.rows.max_rows;
    shapes.check.experts = experts;
    shapes.check.tokens = x.shape()[0];
    shapes.proof =
        gather ? common_proof({{&*offsets, IndexRole::kExpertOffsets}, {&*gather, IndexRole::kRowToken}})
               : common_proof({{&*offsets, IndexRole::kExpertOffsets}});
    if (shapes.proof && !proves(*shapes.proof, shapes.rows, x.shape()[0])) shapes.proof = nullptr;
    shapes.output = {shapes.rows.max_rows, shapes.out};
    shapes.hidden = {shapes.rows.max_rows, shapes.hidden_dim};
  } else {
    check.that(!gather, "gather was given without offsets; give both for ragged rows");
    check.shape("x", x, {experts, Check::kAny, shapes.dim}, "[experts, rows, dim]");
    shapes.rows.rows_per_expert = x.shape()[1];
    shapes.rows.max_rows = experts * x.shape()[1];
    shapes.output = {experts, x.shape()[1], shapes.out};
    shapes.hidden = {experts, x.shape()[1], shapes.hidden_dim};
  }
  return shapes;
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
  check.shape("b1", b1, {shapes.rows.num_experts, shapes.hidden_dim}, "[experts, hidden]");
  check.shape("b2", b2, {shapes.rows.num_experts, shapes.out}, "[experts, out]");
  check.dtype("b1", b1, DType::kFloat32);
  check.dtype("b2", b2, DType::kFloat32);
  check.probability("dropoutRate", dropout_rate);
  const Tensor y = Tensor::empty(x.device(), shapes.output, x.dtype());
  std::optional<Tensor> pre;
  if (save_pre) pre = Tensor::empty(x.device(), shapes.hidden, x.dtype());
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
  args.hidden = shapes.hidden_dim;
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
  check.that(dy.shape() == shapes.output,
             "dy has shape " + dy.shape().text() + "; wanted " + shapes.output.text());
  check.that(pre.shape() == shapes.hidden,
             "pre has shape " + pre.shape().text() + "; wanted " + shapes.hidden.text());
  const std::int64_t count = shapes.rows.num_experts;
  const Shape dx_shape = offsets ? Shape{shapes.rows.max_rows, shapes.dim} : x.shape();
  const Tensor dx = Tensor::empty(x.device(), dx_shape, x.dtype());
  const Tensor dw1 = Tensor::empty(x.device(), w1.shape(), DType::kFloat32);
  const Tensor db1 = Tensor::empty(x.device(), {count, shapes.hidden_dim}, DType::kFloat32);
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
  args.hidden = shapes.hidden_dim;
  args.out = shapes.out;
  args.activation = activation;
  args.dropout_rate = dropout_rate;
  args.key = key;
  launch_experts(*x.device(), args, shapes);
  return {dx, dw1, db1, dw2, db2};
}

}  // namespace softmoe::ops
