// Checks of index tensors before other kernels follow them; see core/kernels/index_checks.h. One block looks
// at everything, so that it knows the first fault and copies either all or nothing; only indices that this
// library did not make come here.
#include "cuda/kernels/index_checks_params.h"

namespace softmoe::cuda {

constexpr int kThreads = 1024;
constexpr std::int32_t kDropped = 0x7fffffff;

// Whether examine(i) finds nothing for i = 0 … count - 1. If it does, the fault at the lowest i is reported.
template <class Report, class Examine>
__device__ bool is_sound(std::int64_t count, const Report& report, const Examine& examine) {
  __shared__ unsigned long long first;
  __syncthreads();  // earlier readers of `first` are done
  if (threadIdx.x == 0) first = ~0ull;
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) {
    if (examine(i).problem == IndexProblem::kNone) continue;
    atomicMin(&first, static_cast<unsigned long long>(i));
    break;
  }
  __syncthreads();
  if (first == ~0ull) return true;
  if (threadIdx.x == 0) report(examine(static_cast<std::int64_t>(first)));
  return false;
}

// By one thread.
__device__ void tell(IndexReportList* list, const IndexFault& fault, IndexProblem problem,
                     std::int32_t operation) {
  volatile IndexReportList* target = list;
  const std::uint32_t count = target->count;
  volatile IndexReport& report = target->reports[count % IndexReportList::kKept];
  report.problem = static_cast<std::int32_t>(problem);
  report.operation = operation;
  report.position = fault.position;
  report.value = fault.value;
  report.limit = fault.limit;
  __threadfence_system();
  target->count = count + 1;
}

__device__ IndexFault fault_of_offset(const std::int32_t* offsets, std::int64_t i) {
  if (i == 0 && offsets[0] != 0) return {IndexProblem::kOffsetsStart, 0, offsets[0], 0};
  if (i > 0 && offsets[i] < offsets[i - 1])
    return {IndexProblem::kOffsetsOrder, i, offsets[i], offsets[i - 1]};
  return {};
}

// The last expert whose first row is at or before `row`.
__device__ std::int64_t expert_of_row(const CheckRowLists& p, std::int32_t row) {
  std::int64_t low = 0, high = p.experts;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    if (p.expert_offsets[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ IndexFault fault_of_token(const CheckRowLists& p, std::int32_t used, std::int64_t token) {
  const std::int32_t begin = p.token_offsets[token], end = p.token_offsets[token + 1];
  std::int64_t expert_before = -1;
  for (std::int32_t at = begin; at < end; ++at) {
    const std::int32_t row = p.token_rows[at];
    if (row < 0 || row >= used) return {IndexProblem::kTokenRows, at, row, used};
    if (p.row_token[row] != token) return {IndexProblem::kTokenRowsOwner, at, row, token};
    if (at > begin && row <= p.token_rows[at - 1])
      return {IndexProblem::kTokenRowsOrder, at, row, p.token_rows[at - 1]};
    const std::int64_t expert = expert_of_row(p, row);
    if (expert == expert_before) return {IndexProblem::kTokenRowsTwice, at, row, 0};
    expert_before = expert;
  }
  return {};
}

__device__ bool lists_are_sound(const CheckRowLists& p) {
  const auto report = [&](const IndexFault& fault) {
    tell(p.reports, fault, p.reported_as == IndexProblem::kNone ? fault.problem : p.reported_as, p.operation);
  };
  const auto expert_offset = [&](std::int64_t i) -> IndexFault {
    const IndexFault fault = fault_of_offset(p.expert_offsets, i);
    if (fault.problem != IndexProblem::kNone || i < p.experts || p.expert_offsets[i] <= p.max_rows)
      return fault;
    return {IndexProblem::kOffsetsEnd, i, p.expert_offsets[i], p.max_rows};
  };
  if (!is_sound(p.experts + 1, report, expert_offset)) return false;
  const std::int32_t used = p.expert_offsets[p.experts];
  const auto row_token = [&](std::int64_t row) -> IndexFault {
    const std::int32_t token = p.row_token[row];
    if (token >= 0 && token < p.tokens) return {};
    return {IndexProblem::kRowToken, row, token, p.tokens};
  };
  if (p.row_token && !is_sound(used, report, row_token)) return false;
  if (!p.token_rows) return true;
  const auto token_offset = [&](std::int64_t i) -> IndexFault {
    const IndexFault fault = fault_of_offset(p.token_offsets, i);
    if (fault.problem != IndexProblem::kNone || i < p.tokens || p.token_offsets[i] == used) return fault;
    return {IndexProblem::kTokenOffsetsEnd, i, p.token_offsets[i], used};
  };
  return is_sound(p.tokens + 1, report, token_offset) &&
         is_sound(p.tokens, report, [&](std::int64_t token) { return fault_of_token(p, used, token); });
}

__device__ void copy_or_fill(const std::int32_t* from, std::int32_t* to, std::int64_t count, bool copies,
                             std::int32_t otherwise) {
  if (!to) return;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) to[i] = copies ? from[i] : otherwise;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    check_row_lists(const __grid_constant__ CheckRowLists p) {
  const bool sound = lists_are_sound(p);
  __syncthreads();  // nobody reads what is now written
  copy_or_fill(p.expert_offsets, p.safe_expert_offsets, p.experts + 1, sound, 0);
  copy_or_fill(p.row_token, p.safe_row_token, p.max_rows, sound, -1);
  copy_or_fill(p.token_offsets, p.safe_token_offsets, p.tokens + 1, sound, 0);
  copy_or_fill(p.token_rows, p.safe_token_rows, p.max_rows, sound, -1);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    check_selection(const __grid_constant__ CheckSelection p) {
  const auto report = [&](const IndexFault& fault) { tell(p.reports, fault, fault.problem, p.operation); };
  const std::int64_t count = p.sets * p.k;
  const bool sound = is_sound(count, report, [&](std::int64_t i) -> IndexFault {
    const std::int32_t index = p.selected[i];
    if (index < 0 || index >= p.end) return {IndexProblem::kSelection, i, index, p.end};
    if (p.position && p.position[i] < 0) return {IndexProblem::kPosition, i, p.position[i], 0};
    for (std::int64_t other = i - i % p.k; p.distinct && other < i; ++other) {
      if (p.selected[other] == index) return {IndexProblem::kSelectionTwice, i, index, 0};
    }
    return {};
  });
  copy_or_fill(p.selected, p.safe_selected, count, sound, 0);
  copy_or_fill(p.position, p.safe_position, count, sound, kDropped);
}

}  // namespace softmoe::cuda
