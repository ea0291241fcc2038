// Row lists of a routing by index. Rows are expert-major: expert e's rows of group g follow those of group g
// - 1, by buffer position. The token side lists the rows of each token in ascending order.
#include <cstdint>

#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

void fill_unused(const RowLists& lists, std::int64_t rows) {
  for (std::int64_t row = rows; row < lists.max_rows; ++row) {
    lists.row_token.as<std::int32_t>()[row] = -1;
    lists.token_rows.as<std::int32_t>()[row] = -1;
  }
}

// Calls body(row, expert) for the rows [begin, end).
template <class Body>
void for_rows_of_experts(const std::int32_t* expert_offsets, std::int64_t begin, std::int64_t end,
                         const Body& body) {
  std::int64_t expert = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    while (row >= expert_offsets[expert + 1]) ++expert;
    body(row, expert);
  }
}

}  // namespace

void CpuKernels::run(const RowsFromTokensChoice& args) {
  const std::int64_t groups = args.shape.groups, tokens = args.shape.tokens, experts = args.shape.experts,
                     k = args.k;
  const std::int32_t *expert = args.expert.as<std::int32_t>(), *position = args.position.as<std::int32_t>();
  std::int32_t* row_token = args.lists.row_token.as<std::int32_t>();
  std::int32_t* token_offsets = args.lists.token_offsets.as<std::int32_t>();
  std::int32_t* token_rows = args.lists.token_rows.as<std::int32_t>();
  std::int32_t* expert_offsets = args.lists.expert_offsets.as<std::int32_t>();
  Arena::Frame frame(scratch.stream());
  // first_row[group][expert]: first the number of rows there, then the first of them.
  std::int32_t* first_row = scratch.stream().take<std::int32_t>(groups * experts);
  std::int32_t* group_rows = scratch.stream().take<std::int32_t>(groups + 1);
  const std::int64_t grain = row_grain(4 * tokens * k);
  pool.parallel_for(groups, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t group = begin; group < end; ++group) {
      std::int32_t* count = first_row + group * experts;
      for (std::int64_t e = 0; e < experts; ++e) count[e] = 0;
      std::int32_t kept = 0;
      for (std::int64_t i = group * tokens * k; i < (group + 1) * tokens * k; ++i) {
        if (position[i] >= args.capacity) continue;
        ++count[expert[i]];
        ++kept;
      }
      group_rows[group + 1] = kept;
    }
  });
  std::int32_t rows = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    expert_offsets[e] = rows;
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int32_t count = first_row[group * experts + e];
      first_row[group * experts + e] = rows;
      rows += count;
    }
  }
  expert_offsets[experts] = rows;
  group_rows[0] = 0;
  for (std::int64_t group = 0; group < groups; ++group) group_rows[group + 1] += group_rows[group];

  pool.parallel_for(groups, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t group = begin; group < end; ++group) {
      std::int32_t at = group_rows[group];
      for (std::int64_t token = group * tokens; token < (group + 1) * tokens; ++token) {
        token_offsets[token] = at;
        for (std::int64_t i = token * k; i < (token + 1) * k; ++i) {
          if (position[i] >= args.capacity) continue;
          const std::int32_t* first = first_row + group * experts + expert[i];
          // Only positions that nobody checked lead beyond the group's rows; the check comes after.
          const bool is_last = group + 1 == groups && expert[i] + 1 == experts;
          const std::int32_t end = is_last              ? rows
                                   : group + 1 < groups ? first[experts]
                                                        : first_row[expert[i] + 1];
          if (position[i] >= end - *first || end > args.lists.max_rows || at >= args.lists.max_rows) continue;
          const std::int32_t row = *first + position[i];
          row_token[row] = static_cast<std::int32_t>(token);
          std::int32_t place = at++;
          for (; place > token_offsets[token] && token_rows[place - 1] > row; --place)
            token_rows[place] = token_rows[place - 1];
          token_rows[place] = row;
        }
      }
    }
  });
  token_offsets[groups * tokens] = rows;
  fill_unused(args.lists, rows);
}

void CpuKernels::run(const RowsFromExpertsChoice& args) {
  const std::int64_t groups = args.shape.groups, tokens = args.shape.tokens, experts = args.shape.experts;
  const std::int64_t capacity = args.capacity, group_rows = experts * capacity;
  std::int32_t* row_token = args.lists.row_token.as<std::int32_t>();
  std::int32_t* token_offsets = args.lists.token_offsets.as<std::int32_t>();
  std::int32_t* token_rows = args.lists.token_rows.as<std::int32_t>();
  for (std::int64_t e = 0; e <= experts; ++e) {
    args.lists.expert_offsets.as<std::int32_t>()[e] = static_cast<std::int32_t>(e * groups * capacity);
  }
  for_rows(pool, groups, 4 * group_rows, [&](std::int64_t group, int worker) {
    Arena& arena = scratch.worker(worker);
    Arena::Frame frame(arena);
    std::int32_t* next = arena.take<std::int32_t>(tokens);  // place of the token's next row

    const std::int32_t* chosen = args.token.as<std::int32_t>() + group * group_rows;
    for (std::int64_t token = 0; token < tokens; ++token) next[token] = 0;
    for (std::int64_t i = 0; i < group_rows; ++i) ++next[chosen[i]];
    auto at = static_cast<std::int32_t>(group * group_rows);
    for (std::int64_t token = 0; token < tokens; ++token) {
      const std::int32_t count = next[token];
      token_offsets[group * tokens + token] = next[token] = at;
      at += count;
    }
    for (std::int64_t i = 0; i < group_rows; ++i) {
      const std::int64_t row = (i / capacity * groups + group) * capacity + i % capacity;
      row_token[row] = static_cast<std::int32_t>(group * tokens + chosen[i]);
      token_rows[next[chosen[i]]++] = static_cast<std::int32_t>(row);
    }
  });
  token_offsets[groups * tokens] = static_cast<std::int32_t>(groups * group_rows);
  fill_unused(args.lists, groups * group_rows);
}

void CpuKernels::run(const GatherGates& args) {
  const std::int64_t experts = args.shape.experts;
  const std::int32_t *offsets = args.lists.expert_offsets.as<std::int32_t>(),
                     *token = args.lists.row_token.as<std::int32_t>();
  const float* gates = args.gates.as<float>();
  float* row_gate = args.row_gate.as<float>();
  const std::int64_t used = offsets[experts];
  pool.parallel_for(used, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for_rows_of_experts(offsets, begin, end, [&](std::int64_t row, std::int64_t e) {
      row_gate[row] = gates[token[row] * experts + e];
    });
  });
  for (std::int64_t row = used; row < args.lists.max_rows; ++row) row_gate[row] = 0;
}

void CpuKernels::run(const GatherGatesBackward& args) {
  const std::int64_t experts = args.shape.experts;
  const std::int32_t *offsets = args.lists.expert_offsets.as<std::int32_t>(),
                     *token = args.lists.row_token.as<std::int32_t>();
  const float* drow_gate = args.drow_gate.as<float>();
  float* dgates = args.dgates.as<float>();
  const std::int64_t count = args.shape.groups * args.shape.tokens * experts;
  pool.parallel_for(count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) dgates[i] = 0;
  });
  // No two rows have both the token and the expert in common.
  pool.parallel_for(offsets[experts], kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for_rows_of_experts(offsets, begin, end, [&](std::int64_t row, std::int64_t e) {
      dgates[token[row] * experts + e] = drow_gate[row];
    });
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
