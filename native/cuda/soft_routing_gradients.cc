// Gradients of the Soft MoE router: kernels/soft_routing_gradients.cu and two float32 products.
#include <string>

#include "cuda/cuda_kernels.h"
#include "cuda/products.h"
#include "cuda/soft_routing.h"

namespace softmoe::cuda {

namespace {

constexpr const char* kFile = "soft_routing_gradients";

// dots[i] = a . b by slot or by token.
void row_dots(Launcher& launcher, const Buffer& a, const Buffer& b, float* dots,
              const SoftRoutingShape& shape, bool of_slots) {
  RowDots p{};
  p.a = a.data;
  p.b = b.data;
  p.dots = dots;
  p.count = shape.batch * (of_slots ? shape.slots() : shape.tokens);
  p.shape = soft_shape(shape);
  p.of_slots = of_slots;
  p.aligned = fours_are_aligned(a.data, shape.dim) && fours_are_aligned(b.data, shape.dim);
  const std::string name = std::string("soft_row_dots_") + name_of(a.dtype);
  launcher.launch(kFile, name.c_str(), {divide_up(p.count, 8)}, 256, 0, p);
}

}  // namespace

void CudaKernels::run(const SoftLogitsGradient& args) {
  const SoftRouting& routing = args.routing;
  const SoftRoutingShape& shape = routing.shape;
  const std::int64_t slots = shape.slots();
  const bool through_dispatch = args.dslots_in && routing.dispatch == RoutingWeights::kSoft;
  const bool through_combine = args.dy && routing.combine == RoutingWeights::kSoft;
  if (!through_dispatch && !through_combine) {
    if (!args.accumulate) {
      launcher_.clear(args.dlogits.data, static_cast<std::size_t>(shape.batch * shape.tokens * slots) * 4);
    }
    return;
  }
  const DType dtype = through_dispatch ? args.x.dtype : args.dy.dtype;
  const Workspace slot_dots = launcher_.workspace_of<float>(through_dispatch ? shape.batch * slots : 0);
  const Workspace token_dots =
      launcher_.workspace_of<float>(through_combine ? shape.batch * shape.tokens : 0);
  LogitsGradient p{};
  p.dlogits = args.dlogits.as<float>();
  p.shape = soft_shape(shape);
  p.row_tiles = static_cast<std::int32_t>(divide_up(shape.tokens, 64));
  p.column_tiles = static_cast<std::int32_t>(divide_up(slots, 64));
  p.accumulate = args.accumulate;
  p.exact = !launcher_.tf32_allowed();
  p.operands_aligned = true;
  const auto use = [&](LogitsGradientSide& side, RoutingSide which, const Buffer& a, const Buffer& b,
                       const Workspace& dots) {
    side.weights = PreparedWeights(launcher_, routing, which).get();  // soft: nothing of its own
    side.weights.aligned = side.weights.aligned && fours_are_aligned(p.dlogits, slots);
    side.a = a.data;
    side.b = b.data;
    side.dots = dots.as<float>();
    p.operands_aligned = p.operands_aligned && rows_are_aligned(a.data, shape.dim, dtype) &&
                         rows_are_aligned(b.data, shape.dim, dtype);
  };
  if (through_dispatch) {
    row_dots(launcher_, args.slots_in, args.dslots_in, slot_dots.as<float>(), shape, true);
    use(p.sides[0], RoutingSide::kDispatch, args.x, args.dslots_in, slot_dots);
  }
  if (through_combine) {
    row_dots(launcher_, args.y, args.dy, token_dots.as<float>(), shape, false);
    use(p.sides[1], RoutingSide::kCombine, args.dy, args.slots_out, token_dots);
  }
  const std::size_t shared_bytes = 3 * (64 + 64) * 128;
  const std::string name = std::string("soft_logits_gradient_") + name_of(dtype);
  launcher_.launch(kFile, name.c_str(), {shape.batch * p.row_tiles * p.column_tiles}, 128, shared_bytes, p);
}

void CudaKernels::run(const SoftLogitsBackward& args) {
  const SoftRoutingShape& shape = args.shape;
  const std::int64_t rows = shape.batch * shape.tokens, slots = shape.slots(), dim = shape.dim;
  const Workspace phihat = launcher_.workspace_of<float>(dim * slots);
  const Workspace dxhat = launcher_.workspace_of<float>(rows * dim);
  const Workspace xhat = launcher_.workspace_of<float>(rows * dim);
  const Workspace dscale_parts = launcher_.workspace_of<float>(rows);
  const Workspace dphihat = launcher_.workspace_of<float>(dim * slots);

  launcher_.launch(kFile, "soft_normalize_slots", {divide_up(slots, 32), divide_up(dim, kNormalizedRows)},
                   256, 0,
                   NormalizeSlots{args.phi.as<float>(), args.slot_norm.as<float>(), phihat.as<float>(),
                                  static_cast<std::int32_t>(dim), static_cast<std::int32_t>(slots)});
  RowProduct back{};
  back.a = args.dlogits.data;
  back.b = phihat.as<void>();
  back.y = dxhat.as<void>();
  back.groups = 1;
  back.rows_per_group = static_cast<std::int32_t>(rows);
  back.columns = static_cast<std::int32_t>(dim);
  back.depth = static_cast<std::int32_t>(slots);
  back.alpha = 1;
  back.y_is_float = true;
  row_product(launcher_, DType::kFloat32, true, back);

  TokenGradient token{};
  token.x = args.x.data;
  token.dxhat = dxhat.as<float>();
  token.scale = args.scale.as<float>();
  token.token_norm = args.token_norm.as<float>();
  token.dx = args.dx.data;
  token.xhat = xhat.as<float>();
  token.dscale_parts = dscale_parts.as<float>();
  token.rows = static_cast<std::int32_t>(rows);
  token.dim = static_cast<std::int32_t>(dim);
  token.eps_inside_root = args.eps_inside_root;
  token.accumulate = args.accumulate_dx;
  token.aligned = fours_are_aligned(args.x.data, dim) && fours_are_aligned(args.dx.data, dim);
  const std::string name = std::string("soft_token_gradient_") + name_of(args.x.dtype);
  launcher_.launch(kFile, name.c_str(), {divide_up(rows, 8)}, 256, 0, token);

  if (args.dscale) {
    launcher_.launch(kFile, "soft_sum_all", {}, 256, 0,
                     SumAll{dscale_parts.as<float>(), args.dscale.as<float>(), rows});
  }
  if (!args.dphi) return;
  ColumnProduct columns{};
  columns.a = xhat.as<void>();
  columns.b = args.dlogits.data;
  columns.y = dphihat.as<void>();
  columns.groups = 1;
  columns.rows_per_group = static_cast<std::int32_t>(rows);
  columns.m = static_cast<std::int32_t>(dim);
  columns.n = static_cast<std::int32_t>(slots);
  columns.alpha = 1;
  columns.y_is_float = true;
  column_product(launcher_, DType::kFloat32, false, columns);
  SlotGradient slot{};
  slot.phi = args.phi.as<float>();
  slot.dphihat = dphihat.as<float>();
  slot.scale = args.scale.as<float>();
  slot.slot_norm = args.slot_norm.as<float>();
  slot.dphi = args.dphi.as<float>();
  slot.dim = static_cast<std::int32_t>(dim);
  slot.slots = static_cast<std::int32_t>(slots);
  slot.eps_inside_root = args.eps_inside_root;
  launcher_.launch(kFile, "soft_slot_gradient", {divide_up(slots, 32)}, 256, 0, slot);
}

}  // namespace softmoe::cuda
