// Checks of index tensors: what they find sound is copied, so that nothing can change it afterwards.
#include "cuda/cuda_kernels.h"
#include "cuda/kernels/index_checks_params.h"

namespace softmoe::cuda {

namespace {

constexpr const char* kFile = "index_checks";
constexpr unsigned kThreads = 1024;

IndexProblem problem_of(RowListCheck::Origin origin) {
  switch (origin) {
    case RowListCheck::Origin::kGiven:
      return IndexProblem::kNone;
    case RowListCheck::Origin::kSelectedExperts:
      return IndexProblem::kPositionsMade;
    case RowListCheck::Origin::kSelectedTokens:
      return IndexProblem::kSelectedTokensMade;
  }
  return IndexProblem::kNone;
}

}  // namespace

SafeRowLists CudaKernels::checked(const RowListCheck& check) {
  const RowLists& given = check.lists;
  SafeRowLists safe{given, nullptr};
  if (check.origin == RowListCheck::Origin::kGiven) {
    const std::int64_t experts = check.experts + 1, tokens = given.token_offsets ? check.tokens + 1 : 0;
    const auto memory = std::make_shared<Workspace>(
        launcher_.workspace_of<std::int32_t>(experts + tokens + 2 * given.max_rows));
    std::int32_t* next = memory->as<std::int32_t>();
    const auto take = [&](const Buffer& list, std::int64_t count) {
      if (!list) return Buffer{};
      const Buffer copy{next, DType::kInt32};
      next += count;
      return copy;
    };
    safe.lists = {take(given.expert_offsets, experts), take(given.row_token, given.max_rows),
                  take(given.token_offsets, tokens), take(given.token_rows, given.max_rows), given.max_rows};
    safe.memory = memory;
  }
  CheckRowLists p{};
  p.expert_offsets = given.expert_offsets.as<std::int32_t>();
  p.row_token = given.row_token.as<std::int32_t>();
  p.token_offsets = given.token_offsets.as<std::int32_t>();
  p.token_rows = given.token_rows.as<std::int32_t>();
  p.safe_expert_offsets = safe.lists.expert_offsets.as<std::int32_t>();
  p.safe_row_token = safe.lists.row_token.as<std::int32_t>();
  p.safe_token_offsets = safe.lists.token_offsets.as<std::int32_t>();
  p.safe_token_rows = safe.lists.token_rows.as<std::int32_t>();
  p.experts = check.experts;
  p.tokens = check.tokens;
  p.max_rows = given.max_rows;
  p.reports = launcher_.index_reports().list();
  p.operation = launcher_.index_reports().number_of(check.operation);
  p.reported_as = problem_of(check.origin);
  launcher_.launch(kFile, "check_row_lists", {}, kThreads, 0, p);
  return safe;
}

SafeSelection CudaKernels::checked(const SelectionCheck& check) {
  const std::int64_t count = check.sets * check.k;
  const auto memory = std::make_shared<Workspace>(launcher_.workspace_of<std::int32_t>(2 * count));
  SafeSelection safe;
  safe.selected = {memory->as<std::int32_t>(), DType::kInt32};
  if (check.position) safe.position = {memory->as<std::int32_t>() + count, DType::kInt32};
  safe.memory = memory;
  launcher_.launch(kFile, "check_selection", {}, kThreads, 0,
                   CheckSelection{check.selected.as<std::int32_t>(), check.position.as<std::int32_t>(),
                                  safe.selected.as<std::int32_t>(), safe.position.as<std::int32_t>(),
                                  check.sets, check.k, check.end, launcher_.index_reports().list(),
                                  launcher_.index_reports().number_of(check.operation), check.distinct});
  return safe;
}

}  // namespace softmoe::cuda
