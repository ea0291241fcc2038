// Dispatch and combine weights made on the fly from logits and log-sum-exps, alone and as GEMM operand; and
// slot rows as they lie in memory.
#pragma once

#include "cuda/kernels/operand.cuh"
#include "cuda/kernels/soft_routing_params.h"

namespace softmoe::cuda {

constexpr float kLog2E = 1.4426950408889634f;
__device__ __forceinline__ float exponential(float x) { return ptx::exp2_approximate(x * kLog2E); }

// Row of slot j of sequence b in [experts][batch * slots_per_expert].
__device__ __forceinline__ int slot_row(const SoftShape& shape, int b, int j) {
  const int per_expert = shape.slots_per_expert;
  return (j / per_expert * shape.batch + b) * per_expert + j % per_expert;
}
struct SlotRow {
  SoftShape shape;
  int b;
  __device__ __forceinline__ int operator()(int j) const { return slot_row(shape, b, j); }
};

__device__ __forceinline__ bool is_valid(const SideWeights& w, int b, int m) {
  return !w.mask || w.mask[static_cast<std::size_t>(b) * w.tokens + m] != 0;
}

__device__ __forceinline__ float4 load_logits(const SideWeights& w, int b, int m, int j) {
  if (w.mode != RoutingWeights::kSoft) return make_float4(0, 0, 0, 0);
  const std::size_t at = (static_cast<std::size_t>(b) * w.tokens + m) * w.slots + j;
  return load4_partial(w.logits + at, w.slots - j, w.aligned);
}

// What the logits of token m with the slots j … j + 3 are weighed against; of dispatch the same for all
// tokens.
__device__ __forceinline__ float4 values_of(const SideWeights& w, int b, int m, int j) {
  if (w.side == RoutingSide::kDispatch) {
    return load4_partial(w.values + static_cast<std::size_t>(b) * w.slots + j, min(w.slots - j, 4),
                         w.aligned);
  }
  float value;
  if (w.mode == RoutingWeights::kSoft) {
    value = w.values[static_cast<std::size_t>(b) * w.tokens + m];
  } else if (w.mode == RoutingWeights::kUniform) {
    value = 1.0f / static_cast<float>(w.slots);
  } else {
    // The slots j = m modulo the period.
    value = 1.0f / static_cast<float>((w.slots - m % w.period + w.period - 1) / w.period);
  }
  return make_float4(value, value, value, value);
}

// Weights of token m with the slots j … j + 3, given their logits and values; zero beyond the last slot.
__device__ __forceinline__ float4 weights_of(const SideWeights& w, int b, int m, int j, float4 logits,
                                             float4 values) {
  float4 result = make_float4(0, 0, 0, 0);
  if (!is_valid(w, b, m)) return result;
  const int count = min(w.slots - j, 4);
  const auto weight = [&](int offset, float logit, float value) {
    if (offset >= count) return 0.0f;
    if (w.mode == RoutingWeights::kSoft) return exponential(logit - value);
    return w.mode == RoutingWeights::kUniform || (j + offset) % w.period == m % w.period ? value : 0.0f;
  };
  result.x = weight(0, logits.x, values.x);
  result.y = weight(1, logits.y, values.y);
  result.z = weight(2, logits.z, values.z);
  result.w = weight(3, logits.w, values.w);
  return result;
}

__device__ __forceinline__ float4 weights_of(const SideWeights& w, int b, int m, int j, float4 logits) {
  return weights_of(w, b, m, j, logits, values_of(w, b, m, j));
}

// The weights of sequence b as operand a: rows of the panel are tokens, columns slots, either of which may be
// the depth. Logits are loaded before the products of the slice at hand and become weights after them.
template <class T, class Panel, int kThreads>
class WeightOperand {
 public:
  // `outer_begin`: first slot (depth-strided panel) or first token (depth-contiguous one).
  __device__ __forceinline__ WeightOperand(const SideWeights& weights, int b, int outer_begin)
      : weights_(weights), b_(b), outer_begin_(outer_begin) {
    const int j = slot(0, 0);
    if (kSameSlots && j < weights_.slots) values_ = values_of(weights_, b_, 0, j);
  }

  __device__ __forceinline__ void fetch(char*, int tile) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int m = token(i, tile), j = slot(i, tile);
      const bool inside = m < weights_.tokens && j < weights_.slots;
      logits_[i] = inside ? load_logits(weights_, b_, m, j) : make_float4(0, 0, 0, 0);
    }
  }

  __device__ __forceinline__ void store(char* panel, int tile) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int m = token(i, tile), j = slot(i, tile);
      const bool inside = m < weights_.tokens && j < weights_.slots;
      float4 weights = make_float4(0, 0, 0, 0);
      if (inside) {
        const bool kept = kSameSlots && weights_.side == RoutingSide::kDispatch;
        weights = weights_of(weights_, b_, m, j, logits_[i], kept ? values_ : values_of(weights_, b_, m, j));
      }
      const int row = (threadIdx.x + i * kThreads) / kFours,
                column = (threadIdx.x + i * kThreads) % kFours * 4;
      char* chunk = panel + Panel::offset(row, column / Panel::kChunkElements);
      store4(reinterpret_cast<T*>(chunk) + column % Panel::kChunkElements, weights);
    }
  }

 private:
  // Four slots at a time: neighbouring threads read whole sectors and write without conflicts.
  static constexpr int kFours = Panel::kColumns / 4;
  static constexpr int kPerThread = Panel::kRows * kFours / kThreads;
  static_assert(Panel::kRows * kFours % kThreads == 0, "every thread makes the same number of weights");

  // Tokens are the depth and a thread meets the same slots in all of them.
  static constexpr bool kSameSlots = !Panel::kDepthContiguous && kThreads % kFours == 0;

  __device__ __forceinline__ int token(int i, int tile) const {
    const int begin = Panel::kDepthContiguous ? outer_begin_ : tile * Panel::kDepth;
    return begin + (threadIdx.x + i * kThreads) / kFours;
  }
  __device__ __forceinline__ int slot(int i, int tile) const {
    const int begin = Panel::kDepthContiguous ? tile * Panel::kDepth : outer_begin_;
    return begin + (threadIdx.x + i * kThreads) % kFours * 4;
  }

  const SideWeights& weights_;
  int b_, outer_begin_;
  float4 values_{};  // of dispatch, where the slots stay the same
  float4 logits_[kPerThread];
};

}  // namespace softmoe::cuda
