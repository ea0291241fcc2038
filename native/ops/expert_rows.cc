#include "ops/expert_rows.h"

namespace softmoe::ops {

namespace {

// Whether what is known of the row lists is enough for these experts and tokens.
bool proves(const IndexProof& proof, const ExpertRows& rows, std::int64_t tokens) {
  return proof.experts == rows.num_experts && proof.rows <= rows.max_rows &&
         (!rows.gather || proof.groups * proof.tokens <= tokens);
}

}  // namespace

ExpertShapes check_expert_rows(const Check& check, const char* operation, const Tensor& x,
                               const std::optional<Tensor>& offsets, const std::optional<Tensor>& gather,
                               const ExpertExtents& extents) {
  ExpertShapes shapes;
  static_cast<ExpertExtents&>(shapes) = extents;
  const std::int64_t experts = extents.num_experts, dim = extents.dim;
  shapes.rows.num_experts = experts;
  if (offsets) {
    check.shape("offsets", *offsets, {experts + 1}, "[experts + 1]");
    check.dtype("offsets", *offsets, DType::kInt32);
    check.shape("x", x, {Check::kAny, dim}, "[tokens, dim]");
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
    shapes.output_shape = {shapes.rows.max_rows, extents.out};
    shapes.hidden_shape = {shapes.rows.max_rows, extents.hidden};
  } else {
    check.that(!gather, "gather was given without offsets; give both for ragged rows");
    check.shape("x", x, {experts, Check::kAny, dim}, "[experts, rows, dim]");
    shapes.rows.rows_per_expert = x.shape()[1];
    shapes.rows.max_rows = experts * x.shape()[1];
    shapes.output_shape = {experts, x.shape()[1], extents.out};
    shapes.hidden_shape = {experts, x.shape()[1], extents.hidden};
  }
  return shapes;
}

}  // namespace softmoe::ops
