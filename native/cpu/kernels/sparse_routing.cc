// Routing by index: choosing experts or tokens, the lists of rows that follow, and combining rows.
//
// Choices cost a few comparisons a score. Places in an expert's buffer are counted in one walk through a
// group, so groups are what runs in parallel there; all else runs in parallel over tokens, experts or rows.
// Nothing is written by two threads, so no result depends on their number.
#include <cstdint>
#include <cstring>

#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/selection.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

// order = the tokens of a group by descending score, ties to the lower token.
void order_by_priority(const TokensChoice& args, const float* scores, const std::int32_t* experts,
                       Arena& arena, std::int32_t* order) {
  const std::int64_t tokens = args.shape.tokens, k = args.k;
  Arena::Frame frame(arena);
  std::uint32_t* keys = arena.take<std::uint32_t>(tokens);
  for (std::int64_t token = 0; token < tokens; ++token) {
    float score = 0;
    const std::int64_t counted = args.priority == RoutingPriority::kMaxGate ? 1 : k;
    for (std::int64_t choice = 0; choice < counted; ++choice) {
      const float gate = scores[token * args.shape.experts + experts[token * k + choice]];
      score += gate == gate ? gate : -__builtin_inff();
    }
    keys[token] = order_key(score);
    order[token] = static_cast<std::int32_t>(token);
  }
  sort_by_key(keys, order, tokens, arena.take<std::int32_t>(tokens));
}

// The `capacity` largest keys, best first.
void choose_best(const std::uint32_t* keys, std::int64_t tokens, std::int64_t capacity, std::int32_t* chosen,
                 std::int32_t* spare) {
  constexpr std::int64_t kInsertion = 16;
  if (capacity <= kInsertion) {
    top_k_by(tokens, capacity, chosen, [keys](std::int64_t i) { return keys[i]; });
  } else {
    select_largest(keys, tokens, capacity, chosen);
    sort_by_key(keys, chosen, capacity, spare);
  }
}

}  // namespace

void CpuKernels::run(const TokensChoice& args) {
  const std::int64_t tokens = args.shape.tokens, experts = args.shape.experts, k = args.k;
  const float* scores = args.scores.as<float>();
  std::int32_t* expert = args.expert.as<std::int32_t>();
  for_rows(pool, args.shape.groups * tokens, 4 * experts,
           [&](std::int64_t token, int) { top_k(scores + token * experts, experts, k, expert + token * k); });
  for_rows(pool, args.shape.groups, 4 * tokens * k, [&](std::int64_t group, int worker) {
    Arena& arena = scratch.worker(worker);
    Arena::Frame frame(arena);
    const std::int32_t* chosen = expert + group * tokens * k;
    std::int32_t* position = args.position.as<std::int32_t>() + group * tokens * k;
    std::int32_t* order = nullptr;
    if (args.priority != RoutingPriority::kTokenOrder) {
      order = arena.take<std::int32_t>(tokens);
      order_by_priority(args, scores + group * tokens * experts, chosen, arena, order);
    }
    std::int32_t* next = arena.take<std::int32_t>(experts);
    for (std::int64_t e = 0; e < experts; ++e) next[e] = 0;
    for (std::int64_t choice = 0; choice < k; ++choice) {
      for (std::int64_t i = 0; i < tokens; ++i) {
        const std::int64_t assignment = (order ? order[i] : i) * k + choice;
        position[assignment] = next[chosen[assignment]]++;
      }
    }
  });
}

void CpuKernels::run(const ExpertsChoice& args) {
  const std::int64_t tokens = args.shape.tokens, experts = args.shape.experts, capacity = args.capacity;
  // Columns are read together as far as a cache line goes: 16 scores.
  constexpr std::int64_t kColumns = 16;
  const std::int64_t strips = ceil_div(experts, kColumns);
  for_rows(pool, args.shape.groups * strips, kColumns * tokens * 4, [&](std::int64_t strip, int worker) {
    Arena& arena = scratch.worker(worker);
    Arena::Frame frame(arena);
    std::uint32_t* keys = arena.take<std::uint32_t>(kColumns * tokens);
    std::int32_t* spare = arena.take<std::int32_t>(capacity);
    const std::int64_t group = strip / strips, first = strip % strips * kColumns;
    const std::int64_t columns = smaller(kColumns, experts - first);
    const float* scores = args.scores.as<float>() + group * tokens * experts + first;
    for (std::int64_t token = 0; token < tokens; ++token) {
      for (std::int64_t c = 0; c < columns; ++c)
        keys[c * tokens + token] = order_key(scores[token * experts + c]);
    }
    for (std::int64_t c = 0; c < columns; ++c) {
      std::int32_t* chosen = args.token.as<std::int32_t>() + (group * experts + first + c) * capacity;
      choose_best(keys + c * tokens, tokens, capacity, chosen, spare);
    }
  });
}

void CpuKernels::run(const NormalizeSelected& args) {
  const std::int64_t experts = args.shape.experts, k = args.k;
  for_rows(pool, args.shape.groups * args.shape.tokens, experts, [&](std::int64_t token, int) {
    const float* gates = args.gates.as<float>() + token * experts;
    const std::int32_t* expert = args.expert.as<std::int32_t>() + token * k;
    float* y = args.y.as<float>() + token * experts;
    float sum = 0;
    for (std::int64_t choice = 0; choice < k; ++choice) sum += gates[expert[choice]];
    for (std::int64_t e = 0; e < experts; ++e) y[e] = 0;
    // Gates that are all 0 have no shares.
    if (sum == 0) return;
    for (std::int64_t choice = 0; choice < k; ++choice) y[expert[choice]] = gates[expert[choice]] / sum;
  });
}

// dgates_e = (dy_e - sum over the selected of dy * y) / sum of the selected gates, for selected e.
void CpuKernels::run(const NormalizeSelectedBackward& args) {
  const std::int64_t experts = args.shape.experts, k = args.k;
  for_rows(pool, args.shape.groups * args.shape.tokens, experts, [&](std::int64_t token, int) {
    const float *gates = args.gates.as<float>() + token * experts,
                *dy = args.dy.as<float>() + token * experts;
    const std::int32_t* expert = args.expert.as<std::int32_t>() + token * k;
    float* dgates = args.dgates.as<float>() + token * experts;
    float sum = 0, along = 0;
    for (std::int64_t choice = 0; choice < k; ++choice) {
      sum += gates[expert[choice]];
      along += gates[expert[choice]] * dy[expert[choice]];
    }
    for (std::int64_t e = 0; e < experts; ++e) dgates[e] = 0;
    if (sum == 0) return;
    for (std::int64_t choice = 0; choice < k; ++choice) {
      dgates[expert[choice]] = (dy[expert[choice]] - along / sum) / sum;
    }
  });
}

void CpuKernels::run(const CombineRows& args) {
  const std::int64_t dim = args.dim;
  const std::int32_t *offsets = args.lists.token_offsets.as<std::int32_t>(),
                     *list = args.lists.token_rows.as<std::int32_t>();
  const float* gates = args.row_gate.as<float>();
  with_float_types(args.rows.dtype, args.y.dtype, [&](auto rows_type, auto y_type) {
    const auto* rows = args.rows.as<const decltype(rows_type)>();
    for_rows(pool, args.tokens, 2 * dim, [&](std::int64_t token, int) {
      auto* y = args.y.as<decltype(y_type)>() + token * dim;
      by_vectors(0, dim, [&](std::int64_t i, std::int64_t n) {
        Vec sum{};
        for (std::int32_t at = offsets[token]; at < offsets[token + 1]; ++at) {
          const Vec v = load_some(rows + list[at] * dim + i, n);
          sum += gates ? gates[list[at]] * v : v;
        }
        store_some(y + i, sum, n);
      });
    });
  });
}

void CpuKernels::run(const CombineRowsBackward& args) {
  const std::int64_t dim = args.dim;
  const std::int32_t* token_of = args.lists.row_token.as<std::int32_t>();
  const std::int64_t used = args.lists.expert_offsets.as<std::int32_t>()[args.experts];
  const float* gates = args.row_gate.as<float>();
  float* drow_gate = args.drow_gate.as<float>();
  const auto run_typed = [&](auto rows_type, auto dy_type, auto drows_type) {
    for_rows(pool, used, 2 * dim, [&](std::int64_t row, int) {
      const auto* dy = args.dy.as<const decltype(dy_type)>() + token_of[row] * dim;
      if (args.drows) {
        auto* drows = args.drows.as<decltype(drows_type)>() + row * dim;
        const float gate = gates ? gates[row] : 1.0f;
        by_vectors(0, dim, [&](std::int64_t i, std::int64_t n) {
          store_some(drows + i, gate * load_some(dy + i, n), n);
        });
      }
      if (drow_gate) {
        const auto* rows = args.rows.as<const decltype(rows_type)>() + row * dim;
        drow_gate[row] = sum_of(dim, [&](std::int64_t i, std::int64_t n) {
          return load_some(dy + i, n) * load_some(rows + i, n);
        });
      }
    });
  };
  with_float_types(args.rows.dtype, args.dy.dtype, args.drows.dtype, run_typed);
  for (std::int64_t row = used; drow_gate && row < args.lists.max_rows; ++row) drow_gate[row] = 0;
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
