// Routing by index: choosing experts or tokens, renormalised gates, combining rows.
#include <string>

#include "core/error.h"
#include "cuda/cuda_kernels.h"
#include "cuda/kernels/sparse_routing_params.h"
#include "cuda/row_team.h"

namespace softmoe::cuda {

namespace {

constexpr const char* kFile = "sparse_routing";
constexpr unsigned kThreads = 256;
constexpr std::int64_t kWarps = kThreads / 32;

}  // namespace

void CudaKernels::run(const TokensChoice& args) {
  const std::int64_t groups = args.shape.groups, tokens = args.shape.tokens, experts = args.shape.experts;
  const std::int64_t all = groups * tokens;
  const auto counters = static_cast<std::size_t>(experts) * sizeof(std::int32_t);
  if (counters > static_cast<std::size_t>(launcher_.properties().shared_bytes_per_block)) {
    throw Error("ERR_INVALID_ARGUMENT",
                "numExperts is " + std::to_string(experts) +
                    "; the CUDA kernel of tokens choice counts at most " +
                    std::to_string(launcher_.properties().shared_bytes_per_block / 4));
  }
  const float* scores = args.scores.as<float>();
  std::int32_t* expert = args.expert.as<std::int32_t>();
  launcher_.launch(kFile, "top_experts", {divide_up(all, kWarps)}, kThreads, 0,
                   TopExperts{scores, expert, all, experts, args.k});
  const bool by_priority = args.priority != RoutingPriority::kTokenOrder;
  const Workspace keys = launcher_.workspace_of<std::uint32_t>(by_priority ? all : 0);
  const Workspace order = launcher_.workspace_of<std::int32_t>(by_priority ? all : 0);
  if (by_priority) {
    const std::int64_t counted = args.priority == RoutingPriority::kMaxGate ? 1 : args.k;
    launcher_.launch(
        kFile, "token_priorities", {divide_up(all, kThreads)}, kThreads, 0,
        TokenPriorities{scores, expert, keys.as<std::uint32_t>(), all, experts, args.k, counted});
    launcher_.launch(kFile, "order_tokens", {groups * divide_up(tokens, kThreads)}, kThreads, 0,
                     OrderTokens{keys.as<std::uint32_t>(), order.as<std::int32_t>(), groups, tokens});
  }
  launcher_.launch(kFile, "buffer_positions", {groups}, kThreads, counters,
                   BufferPositions{expert, by_priority ? order.as<std::int32_t>() : nullptr,
                                   args.position.as<std::int32_t>(), tokens, experts, args.k});
}

void CudaKernels::run(const ExpertsChoice& args) {
  const std::int64_t groups = args.shape.groups, tokens = args.shape.tokens, experts = args.shape.experts;
  const Workspace columns = launcher_.workspace_of<float>(groups * tokens * experts);
  const Workspace chosen = launcher_.workspace_of<unsigned long long>(groups * experts * args.capacity);
  Transpose transpose;
  transpose.x = args.scores;
  transpose.y = columns.buffer(DType::kFloat32);
  transpose.batch = groups;
  transpose.rows = tokens;
  transpose.columns = experts;
  run(transpose);
  if (args.capacity == 0) return;
  launcher_.launch(kFile, "best_tokens", {groups * experts}, kThreads, 0,
                   BestTokens{columns.as<float>(), chosen.as<unsigned long long>(),
                              args.token.as<std::int32_t>(), tokens, args.capacity});
}

void CudaKernels::run(const NormalizeSelected& args) {
  const std::int64_t tokens = args.shape.groups * args.shape.tokens;
  launcher_.launch(kFile, "normalize_selected", {divide_up(tokens, kWarps)}, kThreads, 0,
                   NormalizeGates{args.gates.as<float>(), args.expert.as<std::int32_t>(), nullptr,
                                  args.y.as<float>(), tokens, args.shape.experts, args.k});
}

void CudaKernels::run(const NormalizeSelectedBackward& args) {
  const std::int64_t tokens = args.shape.groups * args.shape.tokens;
  launcher_.launch(kFile, "normalize_selected", {divide_up(tokens, kWarps)}, kThreads, 0,
                   NormalizeGates{args.gates.as<float>(), args.expert.as<std::int32_t>(), args.dy.as<float>(),
                                  args.dgates.as<float>(), tokens, args.shape.experts, args.k});
}

void CudaKernels::run(const CombineRows& args) {
  launch_rows(launcher_, kFile, "combine_rows", args.tokens, args.dim,
              CombineParams{any_floats(args.rows), any_floats(args.y), args.row_gate.as<float>(),
                            args.lists.token_offsets.as<std::int32_t>(),
                            args.lists.token_rows.as<std::int32_t>(), args.tokens, args.dim});
}

void CudaKernels::run(const CombineRowsBackward& args) {
  launch_rows(launcher_, kFile, "combine_rows_backward", args.lists.max_rows, args.dim,
              CombineBackwardParams{any_floats(args.rows), any_floats(args.dy), any_floats(args.drows),
                                    args.row_gate.as<float>(), args.drow_gate.as<float>(),
                                    args.lists.expert_offsets.as<std::int32_t>() + args.experts,
                                    args.lists.row_token.as<std::int32_t>(), args.lists.max_rows, args.dim});
}

}  // namespace softmoe::cuda
