// Dispatch and combine weights of Soft MoE, made on the fly from logits and log-sum-exps as sources of matrix
// products; and slot rows as they lie in memory.
#pragma once

#include "core/kernels/soft_routing.h"
#include "cpu/kernels/gemm_operands.h"
#include "cpu/kernels/vector_math.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// Weights of one token with all slots.
struct WeightLine {
  static constexpr bool kStored = false;
  const float* logits;       // null: not soft
  const float* slot_values;  // of each slot: log-sum-exp (soft) or weight; null: token_value for all
  float token_value;
  std::int64_t identity_period, identity_residue;  // period 0: the token meets every slot

  Vec load(std::int64_t slot) const { return make(slot, kLanes); }
  Vec load_partial(std::int64_t slot, std::int64_t count) const {
    return keep_first(make(slot, count), count, 0.0f);
  }

 private:
  Vec make(std::int64_t slot, std::int64_t count) const {
    const Vec value = slot_values ? load_some(slot_values + slot, count) : splat(token_value);
    if (logits) return exp(load_some(logits + slot, count) - value);
    if (identity_period == 0) return value;
    Vec meets{};
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      meets[lane] = (slot + lane) % identity_period == identity_residue ? 1.0f : 0.0f;
    }
    return value * meets;
  }
};

// The weights of one side for a whole batch.
class SideWeights {
 public:
  // Takes memory for the weights that are not soft.
  SideWeights(const SoftRouting& routing, RoutingSide side, Arena& arena)
      : shape_(routing.shape),
        dispatch_(side == RoutingSide::kDispatch),
        mode_(dispatch_ ? routing.dispatch : routing.combine),
        logits_(routing.logits.as<const float>()),
        mask_(routing.mask.as<const std::int32_t>()) {
    if (mode_ == RoutingWeights::kSoft) {
      values_ = (dispatch_ ? routing.dispatch_lse : routing.combine_lse).as<const float>();
    } else {
      values_ = dispatch_ ? dispatch_values(arena) : combine_values(arena);
    }
  }

  bool soft() const { return mode_ == RoutingWeights::kSoft; }
  bool valid(std::int64_t sequence, std::int64_t token) const {
    return !mask_ || mask_[sequence * shape_.tokens + token] != 0;
  }

  WeightLine line(std::int64_t sequence, std::int64_t token) const {
    const std::int64_t row = sequence * shape_.tokens + token;
    if (!valid(sequence, token)) return {nullptr, nullptr, 0.0f, 0, 0};
    return {soft() ? logits_ + row * shape_.slots() : nullptr,
            dispatch_ ? values_ + sequence * shape_.slots() : nullptr, dispatch_ ? 0.0f : values_[row],
            mode_ == RoutingWeights::kIdentity ? period() : 0,
            mode_ == RoutingWeights::kIdentity ? token % period() : 0};
  }

 private:
  std::int64_t period() const { return smaller(shape_.tokens, shape_.slots()); }

  // [batch, slots]: 1 / (valid tokens that meet the slot), 0 without any.
  const float* dispatch_values(Arena& arena) const {
    const std::int64_t slots = shape_.slots();
    float* values = arena.take<float>(shape_.batch * slots);
    const std::int64_t step = mode_ == RoutingWeights::kIdentity ? larger<std::int64_t>(period(), 1) : 1;
    for (std::int64_t b = 0; b < shape_.batch; ++b) {
      for (std::int64_t j = 0; j < slots; ++j) {
        if (j >= step) {
          values[b * slots + j] = values[b * slots + j - step];
          continue;
        }
        std::int64_t count = 0;
        for (std::int64_t m = j; m < shape_.tokens; m += step) count += valid(b, m);
        values[b * slots + j] = count > 0 ? 1.0f / static_cast<float>(count) : 0.0f;
      }
    }
    return values;
  }

  // [batch, tokens]: 1 / (slots that meet the token).
  const float* combine_values(Arena& arena) const {
    const std::int64_t slots = shape_.slots();
    float* values = arena.take<float>(shape_.batch * shape_.tokens);
    for (std::int64_t m = 0; m < shape_.tokens; ++m) {
      const std::int64_t count =
          mode_ == RoutingWeights::kIdentity ? ceil_div(slots - m % period(), period()) : slots;
      for (std::int64_t b = 0; b < shape_.batch; ++b) {
        values[b * shape_.tokens + m] = 1.0f / static_cast<float>(count);
      }
    }
    return values;
  }

  SoftRoutingShape shape_;
  bool dispatch_;
  RoutingWeights mode_;
  const float* logits_;
  const std::int32_t* mask_;
  const float* values_ = nullptr;
};

// Lines of one sequence: line(token) holds its weights with all slots.
struct SequenceWeights {
  const SideWeights* weights;
  std::int64_t sequence;
  WeightLine line(std::int64_t token) const { return weights->line(sequence, token); }
};

// Which row of [experts][batch * slots_per_expert] is slot j of sequence 0; sequence b lies b *
// slots_per_expert on.
inline const std::int64_t* rows_of_slots(const SoftRoutingShape& shape, Arena& arena) {
  std::int64_t* rows = arena.take<std::int64_t>(shape.slots());
  for (std::int64_t e = 0; e < shape.experts; ++e) {
    for (std::int64_t p = 0; p < shape.slots_per_expert; ++p) {
      rows[e * shape.slots_per_expert + p] = e * shape.batch * shape.slots_per_expert + p;
    }
  }
  return rows;
}

// Line j is the row of slot j of one sequence.
template <class T>
struct SlotRows {
  const T* data;  // row 0 of this sequence
  std::int64_t dim;
  const std::int64_t* rows;
  StoredLine<T> line(std::int64_t slot) const { return {data + rows[slot] * dim}; }
};

template <class T>
inline SlotRows<T> slot_rows(const Buffer& slots, const SoftRoutingShape& shape, const std::int64_t* rows,
                             std::int64_t sequence) {
  return {slots.as<const T>() + sequence * shape.slots_per_expert * shape.dim, shape.dim, rows};
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
