// The rows of the experts as tasks: (expert, block of columns, block of rows), so that all threads have work
// with one expert and with thousands. Include after cpu/kernels/isa.h.
#pragma once

#include "core/kernels/experts.h"
#include "cpu/kernels/gemm.h"

namespace softmoe::cpu::SOFTMOE_ISA {

inline std::int64_t first_row(const ExpertRows& rows, std::int64_t expert) {
  return rows.offsets ? rows.offsets[expert] : expert * rows.rows_per_expert;
}

struct ExpertBlock {
  std::int64_t expert = 0, begin = 0, end = 0;
};

// The rows of all experts cut into blocks that belong to one expert each.
class ExpertBlocks {
 public:
  ExpertBlocks(const ExpertRows& rows, std::int64_t block_rows, Arena& arena) {
    std::int64_t most = 0;
    for (std::int64_t e = 0; e < rows.num_experts; ++e) {
      most += ceil_div(first_row(rows, e + 1) - first_row(rows, e), block_rows);
    }
    blocks_ = arena.take<ExpertBlock>(most);
    for (std::int64_t e = 0; e < rows.num_experts; ++e) {
      const std::int64_t end = first_row(rows, e + 1);
      for (std::int64_t begin = first_row(rows, e); begin < end; begin += block_rows) {
        blocks_[count_++] = {e, begin, smaller(begin + block_rows, end)};
      }
    }
  }
  std::int64_t count() const { return count_; }
  const ExpertBlock& operator[](std::int64_t i) const { return blocks_[i]; }

 private:
  ExpertBlock* blocks_ = nullptr;
  std::int64_t count_ = 0;
};

// Calls body(expert, block, worker) for all blocks of products with the rows of each expert and `columns`
// columns.
template <class Body>
void for_each_expert_block(ThreadPool& pool, Arena& arena, const ExpertRows& rows, std::int64_t columns,
                           const Body& body) {
  const std::int64_t total = first_row(rows, rows.num_experts);
  if (total == 0 || columns == 0) return;
  const BlockSizes size =
      choose_blocks(rows.num_experts, ceil_div(total, rows.num_experts), columns, pool.threads());
  const Arena::Frame frame(arena);
  const ExpertBlocks blocks(rows, size.rows, arena);
  const std::int64_t column_blocks = ceil_div(columns, size.columns);
  // Thousands of small experts go to the threads by neighbours, which lie one after another in memory.
  const std::int64_t tasks = blocks.count() * column_blocks;
  const std::int64_t grain = larger<std::int64_t>(tasks / (64 * pool.threads()), 1);
  pool.parallel_for(tasks, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t task = begin; task < end; ++task) {
      const ExpertBlock& part = blocks[task / column_blocks];
      const std::int64_t column = task % column_blocks * size.columns;
      body(part.expert, Block{part.begin, part.end, column, smaller(column + size.columns, columns)}, worker);
    }
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
