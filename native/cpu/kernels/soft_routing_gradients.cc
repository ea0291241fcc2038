// Gradients of the Soft MoE router. With G1 = x dslots_in^T and G2 = dy slots_out^T (per sequence)
//   dlogits = D (G1 - slots_in . dslots_in) + C (G2 - y . dy)
// where the two row dots are the inner sums of the softmax gradients, so that neither D nor C is stored. Then
//   dxhat = scale dlogits phihat^T          dx = r (dxhat - xhat (xhat . dxhat))
//   dphihat = scale xhat^T dlogits          dphi likewise by columns; dscale = sum_j phihat_j . (xhat^T
//   dlogits)_j
// with r the inverse norm. In the paper's form, r = 1 / (n + eps), the second factor is r^2 / n instead of
// r^3 / r.
#include <type_traits>

#include "core/philox.h"
#include "cpu/kernels/cpu_kernels.h"
#include "cpu/kernels/isa.h"
// The order matters: what follows is code for the instruction set.
#include "cpu/kernels/row_sums.h"
#include "cpu/kernels/soft_weights.h"
#include "cpu/kernels/with_types.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

template <class T>
void logits_gradient(const SoftLogitsGradient& args, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  const SoftRoutingShape& shape = args.routing.shape;
  const std::int64_t slots = shape.slots(), tokens = shape.tokens, dim = shape.dim;
  const Arena::Frame frame(scratch.stream());
  Arena& arena = scratch.stream();
  const std::int64_t* rows = rows_of_slots(shape, arena);
  const bool through_dispatch = args.dslots_in && args.routing.dispatch == RoutingWeights::kSoft;
  const bool through_combine = args.dy && args.routing.combine == RoutingWeights::kSoft;
  float* dlogits = args.dlogits.as<float>();

  float* slot_dots = nullptr;
  if (through_dispatch) {
    slot_dots = arena.take<float>(shape.batch * slots);
    pool.parallel_for(shape.batch * slots, 64, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t at = (rows[i % slots] + i / slots * shape.slots_per_expert) * dim;
        slot_dots[i] = dot(args.slots_in.as<const T>() + at, args.dslots_in.as<const T>() + at, dim);
      }
    });
  }
  float* token_dots = nullptr;
  if (through_combine) {
    token_dots = arena.take<float>(shape.batch * tokens);
    pool.parallel_for(shape.batch * tokens, 64, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) {
        token_dots[i] = dot(args.y.as<const T>() + i * dim, args.dy.as<const T>() + i * dim, dim);
      }
    });
  }
  SoftRouting routing = args.routing;
  const SideWeights dispatch(routing, RoutingSide::kDispatch, arena),
      combine(routing, RoutingSide::kCombine, arena);

  for_each_block(pool, shape.batch, tokens, slots, [&](std::int64_t b, const Block& block, int worker) {
    Arena& worker_arena = scratch.worker(worker);
    bool adds = args.accumulate;
    float* out = dlogits + b * tokens * slots;
    const auto keep = [&](std::int64_t token, std::int64_t slot, Vec v, std::int64_t count) {
      float* target = out + token * slots + slot;
      store_some(target, adds ? load_some(target, count) + v : v, count);
    };
    if (through_dispatch) {
      const auto finish = [&](std::int64_t token, std::int64_t slot, Vec v, std::int64_t count) {
        const Vec weight = load_line(dispatch.line(b, token), slot, count);
        keep(token, slot, weight * (v - load_some(slot_dots + b * slots + slot, count)), count);
      };
      VectorEpilogue epilogue(finish);
      multiply_block<Format>(LeftRows<Format, Dense<T>>({args.x.as<const T>() + b * tokens * dim, dim}),
                             RightColumns<Format, SlotRows<T>>(slot_rows<T>(args.dslots_in, shape, rows, b)),
                             epilogue, block, dim, worker_arena);
      adds = true;
    }
    if (through_combine) {
      const auto finish = [&](std::int64_t token, std::int64_t slot, Vec v, std::int64_t count) {
        const Vec weight = load_line(combine.line(b, token), slot, count);
        keep(token, slot, weight * (v - token_dots[b * tokens + token]), count);
      };
      VectorEpilogue epilogue(finish);
      multiply_block<Format>(LeftRows<Format, Dense<T>>({args.dy.as<const T>() + b * tokens * dim, dim}),
                             RightColumns<Format, SlotRows<T>>(slot_rows<T>(args.slots_out, shape, rows, b)),
                             epilogue, block, dim, worker_arena);
      adds = true;
    }
    if (!adds) {
      for (std::int64_t token = block.row_begin; token < block.row_end; ++token) {
        for (std::int64_t slot = block.column_begin; slot < block.column_end; slot += kLanes) {
          store_some(out + token * slots + slot, Vec{}, block.column_end - slot);
        }
      }
    }
  });
}

// Line i of a stored matrix times `column_factors`.
struct ColumnScaledLine {
  static constexpr bool kStored = false;
  const float* data;
  const float* factors;
  Vec load(std::int64_t i) const { return SOFTMOE_ISA::load(data + i) * SOFTMOE_ISA::load(factors + i); }
  Vec load_partial(std::int64_t i, std::int64_t count) const {
    return SOFTMOE_ISA::load_partial(data + i, count) * SOFTMOE_ISA::load_partial(factors + i, count);
  }
};
struct ColumnScaled {
  const float* data;
  std::int64_t stride;
  const float* factors;
  ColumnScaledLine line(std::int64_t i) const { return {data + i * stride, factors}; }
};

// Line i of a stored matrix times factors[i].
template <class T>
struct RowScaledLine {
  static constexpr bool kStored = false;
  const T* data;
  float factor;
  Vec load(std::int64_t i) const { return SOFTMOE_ISA::load(data + i) * factor; }
  Vec load_partial(std::int64_t i, std::int64_t count) const {
    return SOFTMOE_ISA::load_partial(data + i, count) * factor;
  }
};
template <class T>
struct RowScaled {
  const T* data;
  std::int64_t stride;
  const float* factors;
  RowScaledLine<T> line(std::int64_t i) const { return {data + i * stride, factors[i]}; }
};

// What multiplies v (v . dvhat) in the gradient of vhat = r v.
float second_factor(float inverse_norm, float squares, bool eps_inside_root) {
  if (eps_inside_root) return inverse_norm * inverse_norm * inverse_norm;
  return squares > 0 ? inverse_norm * inverse_norm / __builtin_sqrtf(squares) : 0.0f;
}

template <class T>
void token_gradients(const SoftLogitsBackward& args, ThreadPool& pool, Scratch& scratch) {
  const std::int64_t dim = args.shape.dim, slots = args.shape.slots(),
                     total = args.shape.batch * args.shape.tokens;
  const T* x = args.x.as<const T>();
  T* dx = args.dx.as<T>();
  const float* token_norm = args.token_norm.as<const float>();
  const float scale = *args.scale.as<const float>();
  const LeftRows<Float32Format, ColumnScaled> left(
      {args.dlogits.as<const float>(), slots, args.slot_norm.as<const float>()});
  const RightColumns<Float32Format, Dense<float>> right({args.phi.as<const float>(), slots});
  // A task makes whole rows, since a row's dot needs all of it.
  const std::int64_t block_rows = smaller<std::int64_t>(
      16 * kTileRows, round_up(ceil_div(larger<std::int64_t>(total, 1), 2 * pool.threads()), kTileRows));
  pool.parallel_for(ceil_div(total, block_rows), 1, [&](std::int64_t first, std::int64_t last, int worker) {
    Arena& arena = scratch.worker(worker);
    const Arena::Frame frame(arena);
    float* dxhat = arena.take<float>(block_rows * dim);
    for (std::int64_t task = first; task < last; ++task) {
      const std::int64_t begin = task * block_rows, end = smaller(begin + block_rows, total);
      const auto finish = [&](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
        store_some(dxhat + (row - begin) * dim + column, scale * v, count);
      };
      VectorEpilogue epilogue(finish);
      multiply_block<Float32Format>(left, right, epilogue, Block{begin, end, 0, dim}, slots, arena);
      for (std::int64_t row = begin; row < end; ++row) {
        const T* value = x + row * dim;
        const float* gradient = dxhat + (row - begin) * dim;
        const float projected = dot(value, gradient, dim) *
                                second_factor(token_norm[row], dot(value, value, dim), args.eps_inside_root);
        for (std::int64_t c = 0; c < dim; c += kLanes) {
          const std::int64_t count = dim - c;
          Vec v = token_norm[row] * load_some(gradient + c, count) - projected * load_some(value + c, count);
          T* out = dx + row * dim + c;
          if (args.accumulate_dx) v += load_some(out, count);
          store_some(out, v, count);
        }
      }
    }
  });
}

template <class T>
void slot_gradients(const SoftLogitsBackward& args, ThreadPool& pool, Scratch& scratch) {
  const std::int64_t dim = args.shape.dim, slots = args.shape.slots(),
                     total = args.shape.batch * args.shape.tokens;
  const float* phi = args.phi.as<const float>();
  const float* slot_norm = args.slot_norm.as<const float>();
  const float scale = *args.scale.as<const float>();
  float* dphi = args.dphi.as<float>();

  // dphi = xhat^T dlogits, finished below.
  const LeftColumns<Float32Format, RowScaled<T>> left(
      {args.x.as<const T>(), dim, args.token_norm.as<const float>()}, dim);
  const RightRows<Float32Format, Dense<float>> right({args.dlogits.as<const float>(), slots});
  for_each_block(pool, 1, dim, slots, [&](std::int64_t, const Block& block, int worker) {
    const auto finish = [&](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
      store_some(dphi + row * slots + column, v, count);
    };
    VectorEpilogue epilogue(finish);
    multiply_block<Float32Format>(left, right, epilogue, block, total, scratch.worker(worker));
  });

  const Arena::Frame frame(scratch.stream());
  float* slot_dots = scratch.stream().take<float>(slots);  // phihat_j . (xhat^T dlogits)_j
  pool.parallel_for(slots, 4 * kLanes, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t j = begin; j < end; j += kLanes) {
      const std::int64_t count = smaller<std::int64_t>(end - j, kLanes);
      Vec dots{}, squares{};
      for (std::int64_t d = 0; d < dim; ++d) {
        const Vec v = load_some(phi + d * slots + j, count);
        dots += v * load_some(dphi + d * slots + j, count);
        squares += v * v;
      }
      const Vec norm = load_some(slot_norm + j, count);
      store_some(slot_dots + j, norm * dots, count);
      Vec second{};
      for (std::int64_t lane = 0; lane < count; ++lane) {
        second[lane] = second_factor(norm[lane], squares[lane], args.eps_inside_root);
      }
      const Vec projected = dots * second;
      for (std::int64_t d = 0; d < dim; ++d) {
        float* out = dphi + d * slots + j;
        const Vec v = norm * load_some(out, count) - projected * load_some(phi + d * slots + j, count);
        store_some(out, scale * v, count);
      }
    }
  });
  double dscale = 0;
  for (std::int64_t j = 0; j < slots; ++j) dscale += static_cast<double>(slot_dots[j]);
  *args.dscale.as<float>() = static_cast<float>(dscale);
}

}  // namespace

void CpuKernels::run(const SoftLogitsGradient& args) {
  with_type(args.dslots_in ? args.x : args.dy,
            [&](auto* type) { logits_gradient<std::remove_pointer_t<decltype(type)>>(args, pool, scratch); });
}

void CpuKernels::run(const SoftLogitsBackward& args) {
  with_type(args.x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (args.dx) token_gradients<T>(args, pool, scratch);
    if (args.dphi) slot_gradients<T>(args, pool, scratch);
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
