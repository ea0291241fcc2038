// The rows that the experts work on: uniform or ragged, checked before their kernels run.
#pragma once

#include <memory>
#include <optional>

#include "ops/check.h"
#include "ops/index_checks.h"

namespace softmoe::ops {

struct ExpertExtents {
  std::int64_t num_experts = 0, dim = 0, hidden = 0, out = 0;
};

struct ExpertShapes : ExpertExtents {
  ExpertRows rows;
  Shape output_shape, hidden_shape;
  RowListCheck check;                 // of ragged rows
  std::shared_ptr<IndexProof> proof;  // that they need none
};

// The rows of x for experts of these extents: x is [experts, rows, dim], or [tokens, dim] with `offsets`.
ExpertShapes check_expert_rows(const Check& check, const char* operation, const Tensor& x,
                               const std::optional<Tensor>& offsets, const std::optional<Tensor>& gather,
                               const ExpertExtents& extents);

template <class Args>
void launch_experts(Device& device, const Args& args, const ExpertShapes& shapes) {
  if (!args.rows.offsets) return device.launch(args);
  launch_on_rows(device, args, shapes.check, shapes.proof, [](Args& checked, const RowLists& lists) {
    checked.rows.offsets = lists.expert_offsets.template as<const std::int32_t>();
    checked.rows.gather = lists.row_token.template as<const std::int32_t>();
  });
}

}  // namespace softmoe::ops
