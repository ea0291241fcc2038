// Soft MoE routing, forward: kernels/soft_routing.cu.
#include "cuda/soft_routing.h"

#include <algorithm>
#include <string>

#include "cuda/cuda_kernels.h"
#include "cuda/products.h"

namespace softmoe::cuda {

namespace {

constexpr const char* kFile = "soft_routing";
constexpr std::int64_t kLogitsRows = 64;
constexpr std::size_t kPhiParts = 3;

// Whether dispatch weights come from a table that is not the log-sum-exp.
bool has_dispatch_values(const SoftRouting& routing, RoutingSide side) {
  return side == RoutingSide::kDispatch && routing.dispatch != RoutingWeights::kSoft;
}

struct SumTile {
  const char* name;
  std::int64_t rows, columns;
  std::size_t shared_bytes;
};
// Stages of 64 bytes of depth, three of them, or the results; as SmallSumTile and LargeSumTile in the
// kernels.
constexpr SumTile kSmallTile{"small", 32, 64, 3 * (32 + 64) * 64};
constexpr SumTile kLargeTile{"large", 64, 128, 3 * (64 + 128) * 64};
static_assert(kSmallTile.shared_bytes >= 32 * (64 + 8) * 4);
static_assert(kLargeTile.shared_bytes >= 64 * (128 + 8) * 4);

void weighted_sum(Launcher& launcher, const char* kernel, const SoftRouting& routing, RoutingSide side,
                  const Buffer& x, const Buffer& y, std::int64_t rows, bool accumulate) {
  const SoftRoutingShape& shape = routing.shape;
  const PreparedWeights weights(launcher, routing, side);
  const auto blocks = [&](const SumTile& tile) {
    return shape.batch * divide_up(rows, tile.rows) * divide_up(shape.dim, tile.columns);
  };
  const SumTile& tile = blocks(kLargeTile) >= launcher.properties().multiprocessors ? kLargeTile : kSmallTile;
  WeightedSum p{};
  p.weights = weights.get();
  p.x = x.data;
  p.y = y.data;
  p.shape = soft_shape(shape);
  p.row_tiles = static_cast<std::int32_t>(divide_up(rows, tile.rows));
  p.column_tiles = static_cast<std::int32_t>(divide_up(shape.dim, tile.columns));
  p.y_is_float = y.dtype == DType::kFloat32;
  p.accumulate = accumulate;
  p.exact = !launcher.tf32_allowed();
  p.x_aligned = rows_are_aligned(x.data, shape.dim, x.dtype);
  p.y_aligned = fours_are_aligned(y.data, shape.dim);
  const std::string name = std::string(kernel) + "_" + tile.name + "_" + name_of(x.dtype);
  launcher.launch(kFile, name.c_str(), {blocks(tile)}, 128, tile.shared_bytes, p);
}

}  // namespace

PreparedWeights::PreparedWeights(Launcher& launcher, const SoftRouting& routing, RoutingSide side)
    : values_(launcher.workspace_of<float>(
          has_dispatch_values(routing, side) ? routing.shape.batch * routing.shape.slots() : 0)) {
  const SoftRoutingShape& shape = routing.shape;
  const bool dispatch = side == RoutingSide::kDispatch;
  weights_.mode = dispatch ? routing.dispatch : routing.combine;
  weights_.side = side;
  weights_.mask = routing.mask.as<std::int32_t>();
  weights_.tokens = static_cast<std::int32_t>(shape.tokens);
  weights_.slots = static_cast<std::int32_t>(shape.slots());
  weights_.period = std::min(weights_.tokens, weights_.slots);
  if (weights_.mode == RoutingWeights::kSoft) {
    weights_.logits = routing.logits.as<float>();
    weights_.values = (dispatch ? routing.dispatch_lse : routing.combine_lse).as<float>();
  } else if (dispatch) {
    const std::int64_t count = shape.batch * shape.slots();
    weights_.values = values_.as<float>();
    launcher.launch(kFile, "soft_dispatch_values", {divide_up(count, 256)}, 256, 0,
                    DispatchValues{values_.as<float>(), weights_.mask, soft_shape(shape),
                                   routing.dispatch == RoutingWeights::kIdentity});
  }
  weights_.aligned = fours_are_aligned(weights_.logits, shape.slots()) &&
                     (!dispatch || fours_are_aligned(weights_.values, shape.slots()));
}

void CudaKernels::run(const SoftLogitsForward& args) {
  const SoftRouting& routing = args.routing;
  const SoftRoutingShape& shape = routing.shape;
  const std::int64_t slots = shape.slots(), row_tiles = divide_up(shape.tokens, kLogitsRows);
  const DType dtype = args.x.dtype;
  const bool in_parts = dtype == DType::kBFloat16;
  const Workspace parts =
      launcher_.workspace(in_parts ? kPhiParts * static_cast<std::size_t>(shape.dim * slots) * 2 : 0);
  const Workspace stats =
      launcher_.workspace_of<MaxAndSum>(routing.dispatch_lse ? shape.batch * row_tiles * slots : 0);

  SlotNorms norms{};
  norms.phi = args.phi.as<float>();
  norms.slot_norm = args.slot_norm.as<float>();
  norms.parts = in_parts ? parts.as<void>() : nullptr;
  norms.dim = static_cast<std::int32_t>(shape.dim);
  norms.slots = static_cast<std::int32_t>(slots);
  norms.eps = static_cast<float>(args.eps);
  norms.eps_inside_root = args.eps_inside_root;
  launcher_.launch(kFile, "soft_slot_norms", {divide_up(slots, 32)}, 256, 0, norms);

  SoftLogits p{};
  p.x = args.x.data;
  p.phi = in_parts ? parts.as<void>() : args.phi.data;
  p.scale = args.scale.as<float>();
  p.slot_norm = args.slot_norm.as<float>();
  p.token_norm = args.token_norm.as<float>();
  p.logits = routing.logits.as<float>();
  p.combine_lse = routing.combine_lse.as<float>();
  p.column_stats = routing.dispatch_lse ? stats.as<MaxAndSum>() : nullptr;
  p.mask = routing.mask.as<std::int32_t>();
  p.shape = soft_shape(shape);
  p.row_tiles = static_cast<std::int32_t>(row_tiles);
  p.eps = norms.eps;
  p.eps_inside_root = norms.eps_inside_root;
  p.noise_std = static_cast<float>(args.noise_std);
  p.key = args.key;
  p.exact = true;  // the logits decide the routing
  p.x_aligned = rows_are_aligned(p.x, shape.dim, dtype);
  p.phi_aligned = rows_are_aligned(p.phi, slots, dtype) &&
                  (!in_parts || static_cast<std::size_t>(shape.dim * slots) % 8 == 0);
  p.logits_aligned = fours_are_aligned(p.logits, slots) && fours_are_aligned(p.slot_norm, slots);
  const std::size_t shared_bytes = 3 * (64 + 128) * 128;
  const std::string name = std::string("soft_logits_") + name_of(dtype);
  launcher_.launch(kFile, name.c_str(), {shape.batch * row_tiles}, 128, shared_bytes, p);

  if (!routing.dispatch_lse) return;
  launcher_.launch(kFile, "soft_finish_dispatch", {divide_up(shape.batch * slots, 256)}, 256, 0,
                   FinishDispatch{stats.as<MaxAndSum>(), routing.dispatch_lse.as<float>(), p.shape.batch,
                                  p.row_tiles, p.shape.slots});
}

void CudaKernels::run(const TokensToSlots& args) {
  weighted_sum(launcher_, "soft_tokens_to_slots", args.routing, args.side, args.x, args.slots,
               args.routing.shape.slots(), false);
}

void CudaKernels::run(const SlotsToTokens& args) {
  weighted_sum(launcher_, "soft_slots_to_tokens", args.routing, args.side, args.slots, args.y,
               args.routing.shape.tokens, args.accumulate);
}

void CudaKernels::run(const SoftWeights& args) {
  const SoftRoutingShape& shape = args.routing.shape;
  const PreparedWeights prepared(launcher_, args.routing, args.side);
  WriteWeights p{prepared.get(), args.weights.as<float>(), static_cast<std::int32_t>(shape.batch)};
  p.weights.aligned = p.weights.aligned && fours_are_aligned(p.y, shape.slots());
  const std::int64_t fours = shape.batch * shape.tokens * divide_up(shape.slots(), 4);
  launcher_.launch(kFile, "soft_write_weights", {divide_up(fours, 256)}, 256, 0, p);
}

}  // namespace softmoe::cuda
