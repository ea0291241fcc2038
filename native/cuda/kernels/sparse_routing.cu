// Routing by index: choosing experts or tokens, places in the experts' buffers, renormalised gates, and
// combining rows. A warp chooses for a token, a block counts the places of a group or chooses for an expert.
//
// Atomics are on integers only, and where the order of arrival shows, a sort by unique keys follows.
#include "cuda/kernels/row_team.cuh"
#include "cuda/kernels/selection.cuh"
#include "cuda/kernels/sparse_routing_params.h"

namespace softmoe::cuda {

constexpr int kThreads = kRowThreads;
constexpr int kWarps = kThreads / kWarpSize;

#define SOFTMOE_KERNEL(name, Params) \
  extern "C" __global__ void __launch_bounds__(kThreads) name(const __grid_constant__ Params p)

__device__ __forceinline__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ __forceinline__ int lane_index() { return threadIdx.x % kWarpSize; }

SOFTMOE_KERNEL(top_experts, TopExperts) {
  const std::int64_t token = thread_index() / kWarpSize;
  if (token >= p.tokens) return;
  warp_top_k(p.scores + token * p.experts, p.experts, p.k, [&](std::int64_t choice, std::int32_t index) {
    if (lane_index() == 0) p.expert[token * p.k + choice] = index;
  });
}

SOFTMOE_KERNEL(token_priorities, TokenPriorities) {
  const std::int64_t token = thread_index();
  if (token >= p.tokens) return;
  float score = 0;
  for (std::int64_t choice = 0; choice < p.counted; ++choice) {
    const float gate = p.scores[token * p.experts + p.expert[token * p.k + choice]];
    score += isnan(gate) ? -INFINITY : gate;
  }
  p.keys[token] = order_key(score);
}

// A stable sort by counting who comes before: tokens^2 comparisons a group, but spread over the whole GPU.
SOFTMOE_KERNEL(order_tokens, OrderTokens) {
  const std::int64_t index = thread_index();
  if (index >= p.groups * p.tokens) return;
  const Quotient at = divide(index, p.tokens);
  const std::uint32_t* keys = p.keys + at.value * p.tokens;
  const std::uint32_t key = keys[at.rest];
  std::int64_t rank = 0;
#pragma unroll 4
  for (std::int64_t other = 0; other < p.tokens; ++other) {
    rank += keys[other] > key || (keys[other] == key && other < at.rest);
  }
  p.order[at.value * p.tokens + rank] = static_cast<std::int32_t>(at.rest);
}

// A block walks through the assignments of its group in the order in which places are given out. Lanes of a
// warp with the same expert rank themselves; the warps take turns with the experts' counters.
SOFTMOE_KERNEL(buffer_positions, BufferPositions) {
  extern __shared__ std::int32_t next[];  // [experts]
  for (std::int64_t e = threadIdx.x; e < p.experts; e += kThreads) next[e] = 0;
  const std::int64_t first = blockIdx.x * p.tokens, assignments = p.tokens * p.k;
  for (std::int64_t begin = 0; begin < assignments; begin += kThreads) {
    const std::int64_t i = begin + threadIdx.x;
    const bool exists = i < assignments;
    std::int64_t at = 0;
    std::int32_t expert = -1;
    if (exists) {
      const Quotient turn = divide(i, p.tokens);
      const std::int64_t token = p.order ? p.order[first + turn.rest] : turn.rest;
      at = (first + token) * p.k + turn.value;
      expert = p.expert[at];
    }
    const unsigned same = __match_any_sync(kFullWarp, expert);
    const int rank = __popc(same & ((1u << lane_index()) - 1));
    for (int warp = 0; warp < kWarps; ++warp) {
      __syncthreads();
      if (warp != static_cast<int>(threadIdx.x) / kWarpSize) continue;
      const std::int32_t place = exists ? next[expert] + rank : 0;
      __syncwarp();
      if (exists && rank == 0) next[expert] += __popc(same);
      if (exists) p.position[at] = place;
    }
  }
}

// A block chooses for an expert: it finds the key of the last token that fits digit by digit, collects the
// keys from there on in any order, and ranks them.
SOFTMOE_KERNEL(best_tokens, BestTokens) {
  __shared__ std::int32_t histogram[256];
  __shared__ std::uint64_t shared_prefix;
  __shared__ std::int64_t shared_wanted;
  __shared__ std::int32_t taken;
  __shared__ bool done;
  const float* column = p.columns + blockIdx.x * p.tokens;
  unsigned long long* chosen = p.chosen + blockIdx.x * p.capacity;
  std::uint64_t prefix = 0, mask = 0;
  std::int64_t wanted = p.capacity;  // keys still wanted among those that begin with `prefix`
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int digit = threadIdx.x; digit < 256; digit += kThreads) histogram[digit] = 0;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < p.tokens; i += kThreads) {
      const std::uint64_t key = unique_key(column[i], i);
      if ((key & mask) == prefix) atomicAdd(&histogram[key >> shift & 0xff], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255;
      for (; digit > 0 && histogram[digit] < wanted; --digit) wanted -= histogram[digit];
      shared_prefix = prefix | static_cast<std::uint64_t>(digit) << shift;
      shared_wanted = wanted;
      done = histogram[digit] == wanted;  // all that begin so are taken
      taken = 0;
    }
    __syncthreads();
    prefix = shared_prefix;
    wanted = shared_wanted;
    mask |= std::uint64_t{0xff} << shift;
    if (done) break;
  }
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < p.tokens; i += kThreads) {
    const std::uint64_t key = unique_key(column[i], i);
    if ((key & mask) >= prefix) chosen[atomicAdd(&taken, 1)] = key;
  }
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < p.capacity; i += kThreads) {
    const unsigned long long key = chosen[i];
    std::int64_t rank = 0;
#pragma unroll 4
    for (std::int64_t other = 0; other < p.capacity; ++other) rank += chosen[other] > key;
    p.token[blockIdx.x * p.capacity + rank] = index_of_key(key);
  }
}

// y_e = gate_e / sum of the selected gates; dgates_e = (dy_e - sum of dy * gate / sum) / sum; 0 for experts
// that are not selected, and for all where the sum is 0. A warp a token.
SOFTMOE_KERNEL(normalize_selected, NormalizeGates) {
  const std::int64_t token = thread_index() / kWarpSize;
  if (token >= p.tokens) return;
  const float* gates = p.gates + token * p.experts;
  const std::int32_t* expert = p.expert + token * p.k;
  float sum = 0, along = 0;
  for (std::int64_t choice = 0; choice < p.k; ++choice) {
    sum += gates[expert[choice]];
    if (p.dy) along += gates[expert[choice]] * p.dy[token * p.experts + expert[choice]];
  }
  for (std::int64_t e = lane_index(); e < p.experts; e += kWarpSize) {
    float value = 0;
    for (std::int64_t choice = 0; choice < p.k && sum != 0; ++choice) {
      if (expert[choice] != e) continue;
      value = (p.dy ? p.dy[token * p.experts + e] - along / sum : gates[e]) / sum;
    }
    p.y[token * p.experts + e] = value;
  }
}

template <class Team>
__device__ __forceinline__ void combine_rows(const CombineParams& p) {
  const std::int64_t token = Team::row();
  if (token >= p.tokens) return;
  const std::int32_t begin = p.token_offsets[token], end = p.token_offsets[token + 1];
  Team::for_fours(p.dim, [&](std::int64_t i, int n) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (std::int32_t at = begin; at < end; ++at) {
      const std::int64_t row = p.token_rows[at];
      const float gate = p.row_gate ? p.row_gate[row] : 1.0f;
      sum = map4(sum, load4(p.rows, row * p.dim + i, n), [&](float s, float v) { return s + gate * v; });
    }
    store4(p.y, token * p.dim + i, sum, n);
  });
}
SOFTMOE_ROW_KERNELS(combine_rows, CombineParams, combine_rows)

template <class Team>
__device__ __forceinline__ void combine_rows_backward(const CombineBackwardParams& p) {
  const std::int64_t row = Team::row();
  if (row >= p.max_rows) return;
  if (row >= *p.row_end) {
    if (p.drow_gate && Team::rank() == 0) p.drow_gate[row] = 0;
    return;
  }
  const std::int64_t token = p.row_token[row];
  if (p.drows.data) {
    const float gate = p.row_gate ? p.row_gate[row] : 1.0f;
    Team::for_fours(p.dim, [&](std::int64_t i, int n) {
      store4(p.drows, row * p.dim + i,
             map4(load4(p.dy, token * p.dim + i, n), [&](float v) { return gate * v; }), n);
    });
  }
  if (!p.drow_gate) return;
  const float dot = Team::sum_of(p.dim, [&](std::int64_t i, int n) {
    return map4(load4(p.dy, token * p.dim + i, n), load4(p.rows, row * p.dim + i, n),
                [](float a, float b) { return a * b; });
  });
  if (Team::rank() == 0) p.drow_gate[row] = dot;
}
SOFTMOE_ROW_KERNELS(combine_rows_backward, CombineBackwardParams, combine_rows_backward)

}  // namespace softmoe::cuda
