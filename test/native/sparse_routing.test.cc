// Routing by index against the plainest loops: sort everything, then walk.
#include "core/kernels/sparse_routing.h"

#include <algorithm>
#include <numeric>

#include "cpu/thread_pool.h"
#include "testing.h"

namespace softmoe::testing {
namespace {

constexpr DType kF32 = DType::kFloat32, kBF16 = DType::kBFloat16, kI32 = DType::kInt32;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// Indices of `values`, largest first, equals by index, NaN as -infinity.
std::vector<std::int64_t> order_of(std::vector<double> values) {
  for (double& value : values) value = std::isnan(value) ? -INFINITY : value;
  std::vector<std::int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return values[at(a)] > values[at(b)]; });
  return order;
}

struct Case {
  GroupShape shape;
  std::int64_t k, capacity;
};
const std::vector<Case> kCases = {{{1, 1, 1}, 1, 1},      {{2, 5, 3}, 3, 2},     {{3, 40, 8}, 2, 9},
                                  {{1, 300, 33}, 1, 12},  {{4, 130, 16}, 4, 40}, {{2, 70, 5}, 2, 70},
                                  {{1, 2100, 3}, 1, 300}, {{1, 12, 300}, 3, 5}};

// Scores with many ties, some NaN, some zeros of either sign.
Values make_scores(const GroupShape& shape, std::uint32_t seed) {
  std::vector<double> scores = normals(shape.groups * shape.tokens * shape.experts, seed);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (i % 3 == 0) scores[i] = std::round(2 * scores[i]) / 2;
    if (i % 17 == 5) scores[i] = NAN;
    if (i % 29 == 7) scores[i] = -0.0;
  }
  return Values(kF32, scores);
}

struct Choice {
  Values expert, position;
};

Choice tokens_choice(Kernels& kernels, const Case& c, RoutingPriority priority, const Values& scores) {
  const std::int64_t count = c.shape.groups * c.shape.tokens * c.k;
  Choice choice{Values(kI32, count), Values(kI32, count)};
  TokensChoice args;
  args.shape = c.shape;
  args.k = c.k;
  args.priority = priority;
  args.scores = scores.buffer();
  args.expert = choice.expert.buffer();
  args.position = choice.position.buffer();
  kernels.run(args);
  return choice;
}

TEST(tokens_choice_takes_the_best_experts_and_places_choice_by_choice) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const Case& c : kCases) {
      const auto [groups, tokens, experts] = c.shape;
      const Values scores = make_scores(c.shape, 1);
      for (const RoutingPriority priority :
           {RoutingPriority::kTokenOrder, RoutingPriority::kMaxGate, RoutingPriority::kSumOfGates}) {
        const Choice choice = tokens_choice(kernels, c, priority, scores);
        for (std::int64_t g = 0; g < groups; ++g) {
          std::vector<double> best(at(tokens)), sums(at(tokens));
          std::vector<std::vector<std::int64_t>> chosen;
          for (std::int64_t s = 0; s < tokens; ++s) {
            std::vector<double> row;
            for (std::int64_t e = 0; e < experts; ++e) row.push_back(scores[(g * tokens + s) * experts + e]);
            chosen.push_back(order_of(row));
            best[at(s)] = row[at(chosen.back()[0])];
            for (std::int64_t i = 0; i < c.k; ++i) {
              const double gate = row[at(chosen.back()[at(i)])];
              sums[at(s)] = static_cast<float>(sums[at(s)] + (std::isnan(gate) ? -INFINITY : gate));
              CHECK_EQUAL(choice.expert[(g * tokens + s) * c.k + i],
                          static_cast<double>(chosen.back()[at(i)]));
            }
          }
          std::vector<std::int64_t> order(at(tokens));
          std::iota(order.begin(), order.end(), 0);
          if (priority == RoutingPriority::kMaxGate) order = order_of(best);
          if (priority == RoutingPriority::kSumOfGates) order = order_of(sums);
          std::vector<std::int64_t> next(at(experts));
          for (std::int64_t i = 0; i < c.k; ++i) {
            for (const std::int64_t s : order) {
              const std::int64_t e = chosen[at(s)][at(i)];
              CHECK_EQUAL(choice.position[(g * tokens + s) * c.k + i], static_cast<double>(next[at(e)]++));
            }
          }
        }
      }
    }
  });
}

Values experts_choice(Kernels& kernels, const Case& c, const Values& scores) {
  Values token(kI32, c.shape.groups * c.shape.experts * c.capacity);
  ExpertsChoice args;
  args.shape = c.shape;
  args.capacity = c.capacity;
  args.scores = scores.buffer();
  args.token = token.buffer();
  kernels.run(args);
  return token;
}

TEST(experts_choice_takes_the_best_tokens) {
  for_each_instruction_set([](Kernels& kernels) {
    for (Case c : kCases) {
      c.capacity = std::min(c.capacity, c.shape.tokens);
      const auto [groups, tokens, experts] = c.shape;
      const Values scores = make_scores(c.shape, 2), token = experts_choice(kernels, c, scores);
      for (std::int64_t g = 0; g < groups; ++g) {
        for (std::int64_t e = 0; e < experts; ++e) {
          std::vector<double> column;
          for (std::int64_t s = 0; s < tokens; ++s) column.push_back(scores[(g * tokens + s) * experts + e]);
          const std::vector<std::int64_t> order = order_of(column);
          for (std::int64_t i = 0; i < c.capacity; ++i) {
            CHECK_EQUAL(token[(g * experts + e) * c.capacity + i], static_cast<double>(order[at(i)]));
          }
        }
      }
    }
  });
}

struct Lists {
  Values expert_offsets, row_token, token_offsets, token_rows;
  Lists(const GroupShape& shape, std::int64_t max_rows)
      : expert_offsets(kI32, shape.experts + 1),
        row_token(kI32, max_rows),
        token_offsets(kI32, shape.groups * shape.tokens + 1),
        token_rows(kI32, max_rows) {}
  RowLists buffers() const {
    return {expert_offsets.buffer(), row_token.buffer(), token_offsets.buffer(), token_rows.buffer(),
            row_token.count()};
  }
};

// rows[e] = the tokens that expert e is to have, in order.
void check_lists(const Lists& lists, const std::vector<std::vector<std::int64_t>>& rows,
                 std::int64_t tokens) {
  std::int64_t row = 0;
  std::vector<std::vector<std::int64_t>> of_token(at(tokens));
  for (std::size_t e = 0; e < rows.size(); ++e) {
    CHECK_EQUAL(lists.expert_offsets[static_cast<std::int64_t>(e)], static_cast<double>(row));
    for (const std::int64_t token : rows[e]) {
      of_token[at(token)].push_back(row);
      CHECK_EQUAL(lists.row_token[row++], static_cast<double>(token));
    }
  }
  CHECK_EQUAL(lists.expert_offsets[static_cast<std::int64_t>(rows.size())], static_cast<double>(row));
  std::int64_t place = 0;
  for (std::int64_t token = 0; token < tokens; ++token) {
    CHECK_EQUAL(lists.token_offsets[token], static_cast<double>(place));
    for (const std::int64_t wanted : of_token[at(token)])
      CHECK_EQUAL(lists.token_rows[place++], static_cast<double>(wanted));
  }
  CHECK_EQUAL(lists.token_offsets[tokens], static_cast<double>(place));
  for (; row < lists.row_token.count(); ++row)
    CHECK(lists.row_token[row] == -1 && lists.token_rows[row] == -1);
}

Lists rows_from_tokens_choice(Kernels& kernels, const Case& c, const Choice& choice) {
  Lists lists(c.shape, choice.expert.count() + 3);
  RowsFromTokensChoice args;
  args.shape = c.shape;
  args.k = c.k;
  args.capacity = c.capacity;
  args.expert = choice.expert.buffer();
  args.position = choice.position.buffer();
  args.lists = lists.buffers();
  kernels.run(args);
  return lists;
}

TEST(rows_are_ordered_by_expert_group_and_place) {
  for_each_instruction_set([](Kernels& kernels) {
    for (Case c : kCases) {
      const auto [groups, tokens, experts] = c.shape;
      const Values scores = make_scores(c.shape, 3);
      const Choice choice = tokens_choice(kernels, c, RoutingPriority::kMaxGate, scores);
      std::vector<std::vector<std::int64_t>> rows(at(experts));
      for (std::int64_t e = 0; e < experts; ++e) {
        for (std::int64_t g = 0; g < groups; ++g) {
          for (std::int64_t place = 0; place < c.capacity; ++place) {
            for (std::int64_t i = g * tokens * c.k; i < (g + 1) * tokens * c.k; ++i) {
              if (choice.expert[i] == static_cast<double>(e) &&
                  choice.position[i] == static_cast<double>(place))
                rows[at(e)].push_back(i / c.k);
            }
          }
        }
      }
      check_lists(rows_from_tokens_choice(kernels, c, choice), rows, groups * tokens);

      c.capacity = std::min(c.capacity, tokens);
      const Values token = experts_choice(kernels, c, scores);
      for (std::int64_t e = 0; e < experts; ++e) {
        rows[at(e)].clear();
        for (std::int64_t g = 0; g < groups; ++g) {
          for (std::int64_t place = 0; place < c.capacity; ++place) {
            rows[at(e)].push_back(g * tokens +
                                  static_cast<std::int64_t>(token[(g * experts + e) * c.capacity + place]));
          }
        }
      }
      Lists lists(c.shape, groups * experts * c.capacity);
      RowsFromExpertsChoice args;
      args.shape = c.shape;
      args.capacity = c.capacity;
      args.token = token.buffer();
      args.lists = lists.buffers();
      kernels.run(args);
      check_lists(lists, rows, groups * tokens);
    }
  });
}

TEST(gates_are_gathered_and_their_gradients_scattered) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const Case& c : kCases) {
      const auto [groups, tokens, experts] = c.shape;
      const Choice choice = tokens_choice(kernels, c, RoutingPriority::kTokenOrder, make_scores(c.shape, 4));
      const Lists lists = rows_from_tokens_choice(kernels, c, choice);
      const std::int64_t max_rows = lists.row_token.count(),
                         used = static_cast<std::int64_t>(lists.expert_offsets[experts]);
      const Values gates(kF32, normals(groups * tokens * experts, 5)), drow_gate(kF32, normals(max_rows, 6));
      Values row_gate(kF32, max_rows), dgates(kF32, gates.count());
      GatherGates gather;
      gather.shape = c.shape;
      gather.gates = gates.buffer();
      gather.row_gate = row_gate.buffer();
      gather.lists = lists.buffers();
      kernels.run(gather);
      GatherGatesBackward scatter;
      scatter.shape = c.shape;
      scatter.drow_gate = drow_gate.buffer();
      scatter.dgates = dgates.buffer();
      scatter.lists = lists.buffers();
      kernels.run(scatter);
      std::vector<double> want_gate(at(max_rows)), want_dgates(at(gates.count()));
      for (std::int64_t e = 0; e < experts; ++e) {
        for (auto row = static_cast<std::int64_t>(lists.expert_offsets[e]); row < lists.expert_offsets[e + 1];
             ++row) {
          const std::int64_t i = static_cast<std::int64_t>(lists.row_token[row]) * experts + e;
          want_gate[at(row)] = gates[i];
          want_dgates[at(i)] = drow_gate[row];
        }
      }
      CHECK(used <= max_rows);
      CHECK_CLOSE(row_gate, want_gate, 0);
      CHECK_CLOSE(dgates, want_dgates, 0);
    }
  });
}

TEST(selected_gates_are_normalised_with_their_gradient) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const Case& c : kCases) {
      const std::int64_t rows = c.shape.groups * c.shape.tokens, experts = c.shape.experts;
      const Choice choice = tokens_choice(kernels, c, RoutingPriority::kTokenOrder, make_scores(c.shape, 7));
      std::vector<double> numbers = normals(rows * experts, 8);
      for (double& number : numbers) number = 0.1 + std::fabs(number);
      const Values gates(kF32, numbers), dy(kF32, normals(rows * experts, 9));
      Values y(kF32, gates.count()), dgates(kF32, gates.count());
      NormalizeSelected forward;
      forward.shape = c.shape;
      forward.k = c.k;
      forward.gates = gates.buffer();
      forward.expert = choice.expert.buffer();
      forward.y = y.buffer();
      kernels.run(forward);
      NormalizeSelectedBackward backward;
      backward.shape = c.shape;
      backward.k = c.k;
      backward.gates = gates.buffer();
      backward.expert = choice.expert.buffer();
      backward.dy = dy.buffer();
      backward.dgates = dgates.buffer();
      kernels.run(backward);
      std::vector<double> want_y(numbers.size()), want_dgates(numbers.size());
      for (std::int64_t n = 0; n < rows; ++n) {
        double sum = 0;
        std::vector<std::int64_t> selected;
        for (std::int64_t i = 0; i < c.k; ++i)
          selected.push_back(n * experts + static_cast<std::int64_t>(choice.expert[n * c.k + i]));
        for (const std::int64_t i : selected) sum += gates[i];
        for (const std::int64_t i : selected) {
          want_y[at(i)] = gates[i] / sum;
          // Derivative of gate_j / sum by gate_i, for all j.
          for (const std::int64_t j : selected)
            want_dgates[at(i)] += dy[j] * ((i == j ? 1 / sum : 0) - gates[j] / (sum * sum));
        }
      }
      CHECK_CLOSE(y, want_y, 1e-6);
      if (c.k > 1) CHECK_CLOSE(dgates, want_dgates, 2e-6);
    }
    // Gates of 0 have no shares and no gradient.
    const Values gates(kF32, {0, 0, 0}), expert(kI32, {2, 0}), dy(kF32, {1, 2, 3});
    Values y(kF32, 3), dgates(kF32, 3);
    kernels.run(NormalizeSelected{{1, 1, 3}, 2, gates.buffer(), expert.buffer(), y.buffer()});
    kernels.run(NormalizeSelectedBackward{
        {1, 1, 3}, 2, gates.buffer(), expert.buffer(), dy.buffer(), dgates.buffer()});
    CHECK_CLOSE(y, (std::vector<double>{0, 0, 0}), 0);
    CHECK_CLOSE(dgates, (std::vector<double>{0, 0, 0}), 0);
  });
}

TEST(rows_are_combined_with_their_gradients) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const Case& c : kCases) {
      for (const DType dtype : {kF32, kBF16}) {
        for (const bool has_gate : {true, false}) {
          const std::int64_t tokens = c.shape.groups * c.shape.tokens, experts = c.shape.experts;
          // Long rows where tokens are few.
          const std::int64_t dim = tokens == 1 ? 8403 : tokens == 10 ? 1111 : 37;
          const Lists lists = rows_from_tokens_choice(
              kernels, c, tokens_choice(kernels, c, RoutingPriority::kTokenOrder, make_scores(c.shape, 10)));
          const std::int64_t max_rows = lists.row_token.count(),
                             used = static_cast<std::int64_t>(lists.expert_offsets[experts]);
          std::vector<double> numbers = normals(max_rows * dim, 11);
          // What lies past the last row must not be read.
          for (std::int64_t i = used * dim; i < max_rows * dim; ++i) numbers[at(i)] = NAN;
          const Values rows(dtype, numbers), dy(dtype, normals(tokens * dim, 12)),
              row_gate(kF32, normals(max_rows, 13));
          Values y(dtype, tokens * dim), drow_gate(kF32, max_rows);
          Values drows(dtype, std::vector<double>(numbers.size(), 5.0));
          CombineRows forward;
          forward.tokens = tokens;
          forward.experts = experts;
          forward.dim = dim;
          forward.rows = rows.buffer();
          forward.y = y.buffer();
          forward.lists = lists.buffers();
          CombineRowsBackward backward;
          backward.tokens = tokens;
          backward.experts = experts;
          backward.dim = dim;
          backward.rows = rows.buffer();
          backward.dy = dy.buffer();
          backward.drows = drows.buffer();
          backward.lists = lists.buffers();
          if (has_gate) {
            forward.row_gate = backward.row_gate = row_gate.buffer();
            backward.drow_gate = drow_gate.buffer();
          }
          kernels.run(forward);
          kernels.run(backward);
          std::vector<double> want_y(at(tokens * dim)), want_drows(numbers.size(), 5.0),
              want_gate(at(max_rows));
          for (std::int64_t row = 0; row < used; ++row) {
            const auto token = static_cast<std::int64_t>(lists.row_token[row]);
            const double gate = has_gate ? row_gate[row] : 1;
            for (std::int64_t i = 0; i < dim; ++i) {
              want_y[at(token * dim + i)] += gate * rows[row * dim + i];
              want_drows[at(row * dim + i)] = gate * dy[token * dim + i];
              want_gate[at(row)] += dy[token * dim + i] * rows[row * dim + i];
            }
          }
          const double tolerance = dtype == kBF16 ? 4e-3 : 1e-6;
          CHECK_CLOSE(y, want_y, tolerance);
          CHECK_CLOSE(drows, want_drows, tolerance);
          if (has_gate) CHECK_CLOSE(drow_gate, want_gate, dim > 1000 ? 1e-5 : 1e-6);
        }
      }
    }
  });
}

}  // namespace
}  // namespace softmoe::testing
