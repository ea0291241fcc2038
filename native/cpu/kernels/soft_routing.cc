// Soft MoE routing, forward: normalised logits with both log-sum-exps, dispatch and combine as matrix
// products whose weights exp(logits - log-sum-exp) are made while they are packed. Each of the three products
// takes 2 * tokens * slots * dim FLOPs a sequence; only the logits are stored.
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
void token_norms(const SoftLogitsForward& args, ThreadPool& pool) {
  const SoftRoutingShape& shape = args.routing.shape;
  const T* x = args.x.as<const T>();
  float* norms = args.token_norm.as<float>();
  const float eps = static_cast<float>(args.eps);
  pool.parallel_for(shape.batch * shape.tokens, 64, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float squares = dot(x + row * shape.dim, x + row * shape.dim, shape.dim);
      norms[row] = inverse_norm(splat(squares), eps, args.eps_inside_root)[0];
    }
  });
}

void slot_norms(const SoftLogitsForward& args, ThreadPool& pool) {
  const SoftRoutingShape& shape = args.routing.shape;
  const std::int64_t slots = shape.slots();
  const float* phi = args.phi.as<const float>();
  float* norms = args.slot_norm.as<float>();
  const float eps = static_cast<float>(args.eps);
  pool.parallel_for(slots, 4 * kLanes, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t j = begin; j < end; j += kLanes) {
      const std::int64_t count = smaller<std::int64_t>(end - j, kLanes);
      Vec squares{};
      for (std::int64_t d = 0; d < shape.dim; ++d) {
        const Vec v = load_some(phi + d * slots + j, count);
        squares += v * v;
      }
      store_some(norms + j, inverse_norm(squares, eps, args.eps_inside_root), count);
    }
  });
}

// combine_lse[row] over all slots.
void log_sum_exp_over_slots(const SoftRouting& routing, ThreadPool& pool) {
  const std::int64_t slots = routing.shape.slots();
  const float* logits = routing.logits.as<const float>();
  float* lse = routing.combine_lse.as<float>();
  pool.parallel_for(
      routing.shape.batch * routing.shape.tokens, 16, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t row = begin; row < end; ++row) {
          const float* l = logits + row * slots;
          Vec most = splat(-__builtin_inff());
          for (std::int64_t j = 0; j < slots; j += kLanes) {
            most = max(most, keep_first(load_some(l + j, slots - j), slots - j, -__builtin_inff()));
          }
          const float maximum = max_lanes(most);
          Vec sum{};
          for (std::int64_t j = 0; j < slots; j += kLanes) {
            sum += keep_first(exp(load_some(l + j, slots - j) - maximum), slots - j, 0.0f);
          }
          lse[row] = maximum + log(splat(sum_lanes(sum)))[0];
        }
      });
}

// dispatch_lse[b, j] over the valid tokens.
void log_sum_exp_over_tokens(const SoftRouting& routing, ThreadPool& pool) {
  const std::int64_t slots = routing.shape.slots(), tokens = routing.shape.tokens;
  const float* logits = routing.logits.as<const float>();
  const std::int32_t* mask = routing.mask.as<const std::int32_t>();
  float* lse = routing.dispatch_lse.as<float>();
  const std::int64_t columns = ceil_div(slots, kLanes);
  pool.parallel_for(routing.shape.batch * columns, 4, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / columns, j = task % columns * kLanes;
      const std::int64_t count = smaller<std::int64_t>(slots - j, kLanes);
      const float* l = logits + b * tokens * slots + j;
      Vec most = splat(-__builtin_inff());
      bool any = false;
      for (std::int64_t m = 0; m < tokens; ++m) {
        if (mask && mask[b * tokens + m] == 0) continue;
        most = max(most, load_some(l + m * slots, count));
        any = true;
      }
      Vec sum{};
      for (std::int64_t m = 0; m < tokens; ++m) {
        if (mask && mask[b * tokens + m] == 0) continue;
        sum += exp(load_some(l + m * slots, count) - most);
      }
      store_some(lse + b * slots + j, any ? most + log(sum) : splat(__builtin_inff()), count);
    }
  });
}

template <class T>
void logits(const SoftLogitsForward& args, ThreadPool& pool, Scratch& scratch) {
  const SoftRoutingShape& shape = args.routing.shape;
  const std::int64_t slots = shape.slots();
  token_norms<T>(args, pool);
  slot_norms(args, pool);
  const float* token_norm = args.token_norm.as<const float>();
  const float* slot_norm = args.slot_norm.as<const float>();
  const float scale = *args.scale.as<const float>();
  const float noise_std = static_cast<float>(args.noise_std);
  float* out = args.routing.logits.as<float>();

  // Logits stay float32, whatever x is stored in.
  const LeftRows<Float32Format, Dense<T>> left({args.x.as<const T>(), shape.dim});
  const RightRows<Float32Format, Dense<float>> right({args.phi.as<const float>(), slots});
  for_each_block(
      pool, 1, shape.batch * shape.tokens, slots, [&](std::int64_t, const Block& block, int worker) {
        const auto finish = [&](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
          const std::int64_t at = row * slots + column;
          v = v * (load_some(slot_norm + column, count) * scale) * token_norm[row];
          if (noise_std != 0) {
            for (std::int64_t i = 0; i < count; ++i) {
              v[i] += noise_std * normal(args.key, static_cast<std::uint64_t>(at + i));
            }
          }
          store_some(out + at, v, count);
        };
        VectorEpilogue epilogue(finish);
        multiply_block<Float32Format>(left, right, epilogue, block, shape.dim, scratch.worker(worker));
      });
  if (args.routing.combine_lse) log_sum_exp_over_slots(args.routing, pool);
  if (args.routing.dispatch_lse) log_sum_exp_over_tokens(args.routing, pool);
}

template <class T, class Slot>
void tokens_to_slots(const TokensToSlots& args, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  const SoftRoutingShape& shape = args.routing.shape;
  const Arena::Frame frame(scratch.stream());
  const SideWeights weights(args.routing, args.side, scratch.stream());
  const std::int64_t* rows = rows_of_slots(shape, scratch.stream());
  for_each_block(
      pool, shape.batch, shape.slots(), shape.dim, [&](std::int64_t b, const Block& block, int worker) {
        Slot* slots = args.slots.as<Slot>() + b * shape.slots_per_expert * shape.dim;
        const auto finish = [&](std::int64_t slot, std::int64_t column, Vec v, std::int64_t count) {
          store_some(slots + rows[slot] * shape.dim + column, v, count);
        };
        VectorEpilogue epilogue(finish);
        const LeftColumns<Format, SequenceWeights> left({&weights, b}, shape.slots());
        const RightRows<Format, Dense<T>> right(
            {args.x.as<const T>() + b * shape.tokens * shape.dim, shape.dim});
        multiply_block<Format>(left, right, epilogue, block, shape.tokens, scratch.worker(worker));
      });
}

template <class T, class Token>
void slots_to_tokens(const SlotsToTokens& args, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  const SoftRoutingShape& shape = args.routing.shape;
  const Arena::Frame frame(scratch.stream());
  const SideWeights weights(args.routing, args.side, scratch.stream());
  const std::int64_t* rows = rows_of_slots(shape, scratch.stream());
  for_each_block(
      pool, shape.batch, shape.tokens, shape.dim, [&](std::int64_t b, const Block& block, int worker) {
        Token* y = args.y.as<Token>() + b * shape.tokens * shape.dim;
        const auto finish = [&](std::int64_t token, std::int64_t column, Vec v, std::int64_t count) {
          Token* out = y + token * shape.dim + column;
          store_some(out, args.accumulate ? load_some(out, count) + v : v, count);
        };
        VectorEpilogue epilogue(finish);
        const LeftRows<Format, SequenceWeights> left({&weights, b});
        const RightRows<Format, SlotRows<T>> right(slot_rows<T>(args.slots, shape, rows, b));
        multiply_block<Format>(left, right, epilogue, block, shape.slots(), scratch.worker(worker));
      });
}

}  // namespace

void CpuKernels::run(const SoftLogitsForward& args) {
  with_type(args.x, [&](auto* type) { logits<std::remove_pointer_t<decltype(type)>>(args, pool, scratch); });
}

void CpuKernels::run(const TokensToSlots& args) {
  with_type(args.x, [&](auto* x) {
    with_type(args.slots, [&](auto* slots) {
      tokens_to_slots<std::remove_pointer_t<decltype(x)>, std::remove_pointer_t<decltype(slots)>>(args, pool,
                                                                                                  scratch);
    });
  });
}

void CpuKernels::run(const SlotsToTokens& args) {
  with_type(args.slots, [&](auto* slots) {
    with_type(args.y, [&](auto* y) {
      slots_to_tokens<std::remove_pointer_t<decltype(slots)>, std::remove_pointer_t<decltype(y)>>(args, pool,
                                                                                                  scratch);
    });
  });
}

void CpuKernels::run(const SoftWeights& args) {
  const SoftRoutingShape& shape = args.routing.shape;
  const std::int64_t slots = shape.slots();
  const Arena::Frame frame(scratch.stream());
  const SideWeights weights(args.routing, args.side, scratch.stream());
  float* out = args.weights.as<float>();
  pool.parallel_for(shape.batch * shape.tokens, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      const WeightLine line = weights.line(row / shape.tokens, row % shape.tokens);
      for (std::int64_t j = 0; j < slots; j += kLanes) {
        store_some(out + row * slots + j, load_line(line, j, slots - j), slots - j);
      }
    }
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
