// Checks of index tensors, one pass over each list; see core/kernels/index_checks.h.
#include <cstdint>

#include "core/index_error.h"
#include "cpu/kernels/cpu_kernels.h"
#include "cpu/kernels/isa.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

IndexFault fault_of_offsets(const std::int32_t* offsets, std::int64_t sets) {
  if (offsets[0] != 0) return {IndexProblem::kOffsetsStart, 0, offsets[0], 0};
  for (std::int64_t i = 1; i <= sets; ++i) {
    if (offsets[i] < offsets[i - 1]) return {IndexProblem::kOffsetsOrder, i, offsets[i], offsets[i - 1]};
  }
  return {};
}

// The last expert whose first row is at or before `row`.
std::int64_t expert_of_row(const std::int32_t* expert_offsets, std::int64_t experts, std::int32_t row) {
  std::int64_t low = 0, high = experts;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (expert_offsets[middle] <= row ? low : high) = middle;
  }
  return low;
}

IndexFault fault_of_token_side(const RowListCheck& check, std::int32_t used) {
  const std::int32_t *offsets = check.lists.token_offsets.as<std::int32_t>(),
                     *rows = check.lists.token_rows.as<std::int32_t>(),
                     *row_token = check.lists.row_token.as<std::int32_t>(),
                     *expert_offsets = check.lists.expert_offsets.as<std::int32_t>();
  IndexFault fault = fault_of_offsets(offsets, check.tokens);
  if (fault.problem != IndexProblem::kNone) return fault;
  if (offsets[check.tokens] != used)
    return {IndexProblem::kTokenOffsetsEnd, check.tokens, offsets[check.tokens], used};
  for (std::int64_t token = 0; token < check.tokens; ++token) {
    std::int64_t expert_before = -1;
    for (std::int32_t at = offsets[token]; at < offsets[token + 1]; ++at) {
      const std::int32_t row = rows[at];
      if (row < 0 || row >= used) return {IndexProblem::kTokenRows, at, row, used};
      if (row_token[row] != token) return {IndexProblem::kTokenRowsOwner, at, row, token};
      if (at > offsets[token] && row <= rows[at - 1])
        return {IndexProblem::kTokenRowsOrder, at, row, rows[at - 1]};
      const std::int64_t expert = expert_of_row(expert_offsets, check.experts, row);
      if (expert == expert_before) return {IndexProblem::kTokenRowsTwice, at, row, 0};
      expert_before = expert;
    }
  }
  return {};
}

IndexFault fault_of(const RowListCheck& check) {
  const std::int32_t* expert_offsets = check.lists.expert_offsets.as<std::int32_t>();
  const IndexFault fault = fault_of_offsets(expert_offsets, check.experts);
  if (fault.problem != IndexProblem::kNone) return fault;
  const std::int32_t used = expert_offsets[check.experts];
  if (used > check.lists.max_rows)
    return {IndexProblem::kOffsetsEnd, check.experts, used, check.lists.max_rows};
  const std::int32_t* row_token = check.lists.row_token.as<std::int32_t>();
  for (std::int64_t row = 0; row_token && row < used; ++row) {
    if (row_token[row] < 0 || row_token[row] >= check.tokens)
      return {IndexProblem::kRowToken, row, row_token[row], check.tokens};
  }
  return check.lists.token_rows ? fault_of_token_side(check, used) : IndexFault{};
}

IndexFault fault_of(const SelectionCheck& check) {
  const std::int32_t *selected = check.selected.as<std::int32_t>(),
                     *position = check.position.as<std::int32_t>();
  for (std::int64_t i = 0; i < check.sets * check.k; ++i) {
    if (selected[i] < 0 || selected[i] >= check.end)
      return {IndexProblem::kSelection, i, selected[i], check.end};
    if (position && position[i] < 0) return {IndexProblem::kPosition, i, position[i], 0};
    for (std::int64_t other = i - i % check.k; check.distinct && other < i; ++other) {
      if (selected[other] == selected[i]) return {IndexProblem::kSelectionTwice, i, selected[i], 0};
    }
  }
  return {};
}

}  // namespace

SafeRowLists CpuKernels::checked(const RowListCheck& check) {
  IndexFault fault = fault_of(check);
  if (fault.problem != IndexProblem::kNone) {
    if (check.origin == RowListCheck::Origin::kSelectedExperts) fault.problem = IndexProblem::kPositionsMade;
    if (check.origin == RowListCheck::Origin::kSelectedTokens)
      fault.problem = IndexProblem::kSelectedTokensMade;
    throw_index_error(fault);
  }
  return {check.lists, nullptr};
}

SafeSelection CpuKernels::checked(const SelectionCheck& check) {
  const IndexFault fault = fault_of(check);
  if (fault.problem != IndexProblem::kNone) throw_index_error(fault);
  return {check.selected, check.position, nullptr};
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
