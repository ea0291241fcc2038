// Arguments of the kernels in index_checks.cu, and what they report.
#pragma once

#include <cstdint>

#include "core/index_fault.h"

namespace softmoe::cuda {

// In page-locked memory that the GPU writes and the host reads once the stream got there. The host clears
// nothing: `count` alone tells what is new.
struct IndexReport {
  std::int32_t problem, operation;
  std::int64_t position, value, limit;
};
struct IndexReportList {
  static constexpr std::uint32_t kKept = 8;
  std::uint32_t count;  // of all reports so far; report i is at [i % kKept]
  IndexReport reports[kKept];
};

// `safe_*` get the lists if they are sound, else empty ones. They may be the lists themselves.
struct CheckRowLists {
  const std::int32_t* expert_offsets;  // [experts + 1]
  const std::int32_t* row_token;       // [max_rows], or null
  const std::int32_t* token_offsets;   // [tokens + 1], or null
  const std::int32_t* token_rows;      // [max_rows], or null
  std::int32_t* safe_expert_offsets;
  std::int32_t* safe_row_token;
  std::int32_t* safe_token_offsets;
  std::int32_t* safe_token_rows;
  std::int64_t experts, tokens, max_rows;
  IndexReportList* reports;
  std::int32_t operation;
  IndexProblem reported_as;  // kNone: as what it is
};

// `safe_*` get the selection if it is sound, else index 0 throughout, at positions beyond all capacities.
struct CheckSelection {
  const std::int32_t* selected;  // [sets, k]
  const std::int32_t* position;  // or null
  std::int32_t* safe_selected;
  std::int32_t* safe_position;
  std::int64_t sets, k, end;
  IndexReportList* reports;
  std::int32_t operation;
  bool distinct;
};

}  // namespace softmoe::cuda
