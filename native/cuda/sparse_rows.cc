// Row lists of a routing by index, and the gates of rows.
#include <algorithm>

#include "cuda/cuda_kernels.h"
#include "cuda/kernels/sparse_routing_params.h"

namespace softmoe::cuda {

namespace {

constexpr const char* kFile = "sparse_rows";
constexpr unsigned kThreads = 256;

GroupExtents extents_of(const GroupShape& shape) { return {shape.groups, shape.tokens, shape.experts}; }

void scan(Launcher& launcher, const std::int32_t* x, std::int32_t* y, std::int64_t count) {
  launcher.launch(kFile, "exclusive_scan", {}, 1024, 0, ExclusiveScan{x, y, count});
}

// Entries that no row takes stay -1.
void mark_unused(CudaKernels& kernels, const RowLists& lists) {
  for (const Buffer& list : {lists.row_token, lists.token_rows}) kernels.run(Fill{list, lists.max_rows, -1});
}

void sort_token_rows(Launcher& launcher, const RowLists& lists, std::int64_t tokens) {
  launcher.launch(kFile, "sort_token_rows", {divide_up(tokens, kThreads)}, kThreads, 0,
                  SortTokenRows{lists.token_offsets.as<std::int32_t>(), lists.token_rows.as<std::int32_t>(),
                                tokens, lists.max_rows});
}

}  // namespace

void CudaKernels::run(const RowsFromTokensChoice& args) {
  const GroupShape& shape = args.shape;
  const std::int64_t tokens = shape.groups * shape.tokens, pairs = shape.experts * shape.groups;
  const Workspace expert_rows = launcher_.workspace_of<std::int32_t>(pairs);
  const Workspace first_row = launcher_.workspace_of<std::int32_t>(pairs + 1);
  const Workspace token_counts = launcher_.workspace_of<std::int32_t>(tokens);
  mark_unused(*this, args.lists);
  launcher_.clear(expert_rows.as<void>(), static_cast<std::size_t>(pairs) * sizeof(std::int32_t));
  launcher_.launch(kFile, "count_rows", {divide_up(tokens, kThreads)}, kThreads, 0,
                   CountRows{args.expert.as<std::int32_t>(), args.position.as<std::int32_t>(),
                             expert_rows.as<std::int32_t>(), token_counts.as<std::int32_t>(),
                             extents_of(shape), args.k, args.capacity});
  scan(launcher_, expert_rows.as<std::int32_t>(), first_row.as<std::int32_t>(), pairs);
  scan(launcher_, token_counts.as<std::int32_t>(), args.lists.token_offsets.as<std::int32_t>(), tokens);
  launcher_.launch(
      kFile, "list_rows", {divide_up(std::max(tokens, shape.experts + 1), kThreads)}, kThreads, 0,
      ListRows{args.expert.as<std::int32_t>(), args.position.as<std::int32_t>(), first_row.as<std::int32_t>(),
               args.lists.expert_offsets.as<std::int32_t>(), args.lists.row_token.as<std::int32_t>(),
               args.lists.token_offsets.as<std::int32_t>(), args.lists.token_rows.as<std::int32_t>(),
               extents_of(shape), args.k, args.capacity, args.lists.max_rows});
  sort_token_rows(launcher_, args.lists, tokens);
}

void CudaKernels::run(const RowsFromExpertsChoice& args) {
  const GroupShape& shape = args.shape;
  const std::int64_t tokens = shape.groups * shape.tokens,
                     rows = shape.groups * shape.experts * args.capacity;
  const Workspace token_counts = launcher_.workspace_of<std::int32_t>(tokens);
  const auto clear_counts = [&] {
    launcher_.clear(token_counts.as<void>(), static_cast<std::size_t>(tokens) * sizeof(std::int32_t));
  };
  const ListChosenTokens p{args.token.as<std::int32_t>(),
                           token_counts.as<std::int32_t>(),
                           args.lists.expert_offsets.as<std::int32_t>(),
                           args.lists.row_token.as<std::int32_t>(),
                           args.lists.token_offsets.as<std::int32_t>(),
                           args.lists.token_rows.as<std::int32_t>(),
                           extents_of(shape),
                           args.capacity};
  mark_unused(*this, args.lists);
  clear_counts();
  launcher_.launch(kFile, "count_chosen_tokens", {divide_up(std::max(rows, shape.experts + 1), kThreads)},
                   kThreads, 0, p);
  scan(launcher_, token_counts.as<std::int32_t>(), args.lists.token_offsets.as<std::int32_t>(), tokens);
  clear_counts();
  launcher_.launch(kFile, "list_chosen_tokens", {divide_up(rows, kThreads)}, kThreads, 0, p);
  sort_token_rows(launcher_, args.lists, tokens);
}

void CudaKernels::run(const GatherGates& args) {
  launcher_.launch(
      kFile, "row_gates", {divide_up(args.lists.max_rows, kThreads)}, kThreads, 0,
      RowGates{args.gates.as<float>(), args.row_gate.as<float>(),
               args.lists.expert_offsets.as<std::int32_t>(), args.lists.row_token.as<std::int32_t>(),
               args.lists.max_rows, args.shape.experts, false});
}

void CudaKernels::run(const GatherGatesBackward& args) {
  const std::int64_t gates = args.shape.groups * args.shape.tokens * args.shape.experts;
  launcher_.clear(args.dgates.data, static_cast<std::size_t>(gates) * sizeof(float));
  launcher_.launch(
      kFile, "row_gates", {divide_up(args.lists.max_rows, kThreads)}, kThreads, 0,
      RowGates{args.dgates.as<float>(), args.drow_gate.as<float>(),
               args.lists.expert_offsets.as<std::int32_t>(), args.lists.row_token.as<std::int32_t>(),
               args.lists.max_rows, args.shape.experts, true});
}

}  // namespace softmoe::cuda
