// Arguments of the kernels in sparse_routing.cu and sparse_rows.cu.
#pragma once

#include <cstdint>

#include "core/kernels/sparse_routing.h"
#include "cuda/kernels/any_floats.h"

namespace softmoe::cuda {

struct GroupExtents {
  std::int64_t groups, tokens, experts;
};

struct TopExperts {
  const float* scores;
  std::int32_t* expert;
  std::int64_t tokens, experts, k;  // tokens of all groups
};

// keys[token] = order key of the token's priority; then order[group][rank] = token.
struct TokenPriorities {
  const float* scores;
  const std::int32_t* expert;
  std::uint32_t* keys;
  std::int64_t tokens, experts, k, counted;  // counted: choices whose scores are added
};
struct OrderTokens {
  const std::uint32_t* keys;
  std::int32_t* order;
  std::int64_t groups, tokens;
};

struct BufferPositions {
  const std::int32_t* expert;
  const std::int32_t* order;  // or null: token order
  std::int32_t* position;
  std::int64_t tokens, experts, k;
};

struct BestTokens {
  const float* columns;        // [groups, experts, tokens]
  unsigned long long* chosen;  // [groups, experts, capacity], unique keys
  std::int32_t* token;
  std::int64_t tokens, capacity;
};

// y[i] = sum of x[0 … i - 1] for i = 0 … count.
struct ExclusiveScan {
  const std::int32_t* x;
  std::int32_t* y;
  std::int64_t count;
};

// Numbers of rows by (expert, group) and by token.
struct CountRows {
  const std::int32_t* expert;
  const std::int32_t* position;
  std::int32_t* expert_rows;  // [experts, groups], 0 before
  std::int32_t* token_rows;   // [groups * tokens]
  GroupExtents shape;
  std::int64_t k, capacity;
};

struct ListRows {
  const std::int32_t* expert;
  const std::int32_t* position;
  const std::int32_t* first_row;  // [experts, groups] + 1
  std::int32_t* expert_offsets;
  std::int32_t* row_token;
  const std::int32_t* token_offsets;
  std::int32_t* token_rows;
  GroupExtents shape;
  std::int64_t k, capacity, max_rows;
};

struct ListChosenTokens {
  const std::int32_t* token;   // [groups, experts, capacity]
  std::int32_t* token_counts;  // 0 before
  std::int32_t* expert_offsets;
  std::int32_t* row_token;
  const std::int32_t* token_offsets;
  std::int32_t* token_rows;
  GroupExtents shape;
  std::int64_t capacity;
};

struct SortTokenRows {
  const std::int32_t* token_offsets;
  std::int32_t* token_rows;
  std::int64_t tokens, max_rows;
};

// By row: row_gate[r] = gates[token, expert], or back.
struct RowGates {
  float* gates;
  float* row_gate;
  const std::int32_t* expert_offsets;
  const std::int32_t* row_token;
  std::int64_t max_rows, experts;
  bool backward;
};

struct NormalizeGates {
  const float* gates;
  const std::int32_t* expert;
  const float* dy;  // or null: forward
  float* y;         // dgates in the backward
  std::int64_t tokens, experts, k;
};

struct CombineParams {
  AnyFloats rows, y;
  const float* row_gate;  // or null
  const std::int32_t* token_offsets;
  const std::int32_t* token_rows;
  std::int64_t tokens, dim;
};

struct CombineBackwardParams {
  AnyFloats rows, dy, drows;
  const float* row_gate;  // or null
  float* drow_gate;       // or null
  const std::int32_t* row_end;
  const std::int32_t* row_token;
  std::int64_t max_rows, dim;
};

}  // namespace softmoe::cuda
