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
  // A lane collects a choice; 32 are written at a time.
  std::int32_t own = 0;
  warp_top_k(p.scores + token * p.experts, p.experts, p.k, [&](std::int64_t choice, std::int32_t index) {
    const int place = static_cast<int>(choice % kWarpSize);
    if (lane_index() == place) own = index;
    if (place + 1 < kWarpSize && choice + 1 < p.k) return;
    if (lane_index() <= place) p.expert[token * p.k + choice - place + lane_index()] = own;
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

// A stable sort by counting who comes before: tokens^2 comparisons a group, but spread over the whole GPU. A
// block ranks 256 tokens and brings the keys of their group through shared memory.
SOFTMOE_KERNEL(order_tokens, OrderTokens) {
  __shared__ std::uint32_t shared[kThreads];
  const std::int64_t blocks = (p.tokens + kThreads - 1) / kThreads;
  const std::int64_t group = blockIdx.x / blocks, own = blockIdx.x % blocks * kThreads + threadIdx.x;
  const std::uint32_t* keys = p.keys + group * p.tokens;
  const std::uint32_t key = own < p.tokens ? keys[own] : 0;
  std::int64_t rank = 0;
  for (std::int64_t begin = 0; begin < p.tokens; begin += kThreads) {
    __syncthreads();
    if (begin + threadIdx.x < p.tokens) shared[threadIdx.x] = keys[begin + threadIdx.x];
    __syncthreads();
    const int count = static_cast<int>(min(p.tokens - begin, static_cast<std::int64_t>(kThreads)));
#pragma unroll 4
    for (int other = 0; other < count; ++other) {
      rank += shared[other] > key || (shared[other] == key && begin + other < own);
    }
  }
  if (own < p.tokens) p.order[group * p.tokens + rank] = static_cast<std::int32_t>(own);
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
// keys from there on in any order, and ranks them. The scores of the first 2048 tokens stay in registers.
SOFTMOE_KERNEL(best_tokens, BestTokens) {
  __shared__ std::int32_t histogram[256];
  __shared__ unsigned long long others[kThreads];
  __shared__ std::uint64_t shared_prefix;
  __shared__ std::int64_t shared_wanted;
  __shared__ std::int32_t taken;
  __shared__ bool done;
  const float* column = p.columns + blockIdx.x * p.tokens;
  unsigned long long* chosen = p.chosen + blockIdx.x * p.capacity;
  constexpr int kKept = 8;
  float kept[kKept];
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const std::int64_t i = threadIdx.x + k * kThreads;
    if (i < p.tokens) kept[k] = column[i];
  }
  // Calls body(key) for the tokens of this thread.
  const auto for_keys = [&](auto body) {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const std::int64_t i = threadIdx.x + k * kThreads;
      if (i < p.tokens) body(unique_key(kept[k], i));
    }
    for (std::int64_t i = threadIdx.x + kKept * kThreads; i < p.tokens; i += kThreads) {
      body(unique_key(column[i], i));
    }
  };
  std::uint64_t prefix = 0, mask = 0;
  std::int64_t wanted = p.capacity;  // keys still wanted among those that begin with `prefix`
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int digit = threadIdx.x; digit < 256; digit += kThreads) histogram[digit] = 0;
    __syncthreads();
    for_keys([&](std::uint64_t key) {
      if ((key & mask) == prefix) atomicAdd(&histogram[key >> shift & 0xff], 1);
    });
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
  for_keys([&](std::uint64_t key) {
    if ((key & mask) >= prefix) chosen[atomicAdd(&taken, 1)] = key;
  });
  __syncthreads();
  for (std::int64_t first = 0; first < p.capacity; first += kThreads) {
    const std::int64_t i = first + threadIdx.x;
    const unsigned long long key = i < p.capacity ? chosen[i] : 0;
    std::int64_t rank = 0;
    for (std::int64_t begin = 0; begin < p.capacity; begin += kThreads) {
      __syncthreads();
      if (begin + threadIdx.x < p.capacity) others[threadIdx.x] = chosen[begin + threadIdx.x];
      __syncthreads();
      const int count = static_cast<int>(min(p.capacity - begin, static_cast<std::int64_t>(kThreads)));
#pragma unroll 4
      for (int other = 0; other < count; ++other) rank += others[other] > key;
    }
    if (i < p.capacity) p.token[blockIdx.x * p.capacity + rank] = index_of_key(key);
  }
}

// y_e = gate_e / sum of the selected gates; dgates_e = (dy_e - sum of dy * gate / sum) / sum; 0 for experts
// that are not selected, and for all where the sum is 0. A warp a token.
SOFTMOE_KERNEL(normalize_selected, NormalizeGates) {
  const std::int64_t token = thread_index() / kWarpSize;
  if (token >= p.tokens) return;
  // A lane holds a choice, 32 of them at a time.
  std::int32_t own_expert = 0;
  float own_gate = 0, own_dy = 0;
  const auto load_choices = [&](std::int64_t begin) {
    if (begin + lane_index() >= p.k) return;
    own_expert = p.expert[token * p.k + begin + lane_index()];
    own_gate = p.gates[token * p.experts + own_expert];
    if (p.dy) own_dy = p.dy[token * p.experts + own_expert];
  };
  // Calls body(expert, gate, dy) for each choice in order.
  const auto for_choices = [&](auto body) {
    for (std::int64_t begin = 0; begin < p.k; begin += kWarpSize) {
      if (p.k > kWarpSize) load_choices(begin);
      const int count = static_cast<int>(min(p.k - begin, static_cast<std::int64_t>(kWarpSize)));
      for (int lane = 0; lane < count; ++lane) {
        body(__shfl_sync(kFullWarp, own_expert, lane), __shfl_sync(kFullWarp, own_gate, lane),
             __shfl_sync(kFullWarp, own_dy, lane));
      }
    }
  };
  load_choices(0);
  float sum = 0, along = 0;
  for_choices([&](std::int32_t, float gate, float dy) {
    sum += gate;
    along += gate * dy;
  });
  for (std::int64_t first = 0; first < p.experts; first += kWarpSize) {
    const std::int64_t e = first + lane_index();
    float value = 0;
    for_choices([&](std::int32_t expert, float gate, float dy) {
      if (expert == e && sum != 0) value = (p.dy ? dy - along / sum : gate) / sum;
    });
    if (e < p.experts) p.y[token * p.experts + e] = value;
  }
}

template <class Team>
__device__ __forceinline__ void combine_rows(const CombineParams& p) {
  const std::int64_t token = Team::row();
  if (token >= p.tokens) return;
  const std::int32_t begin = p.token_offsets[token], end = p.token_offsets[token + 1];
  // A row's number and gate are read once for kFours fours of each thread.
  constexpr int kFours = 8;
  for (std::int64_t first = Team::rank() * 4; first < p.dim; first += Team::kSize * 4 * kFours) {
    float4 sums[kFours] = {};
    const auto for_fours = [&](auto body) {
#pragma unroll
      for (int k = 0; k < kFours; ++k) {
        const std::int64_t i = first + k * Team::kSize * 4;
        if (i < p.dim) body(i, static_cast<int>(min(p.dim - i, static_cast<std::int64_t>(4))), sums[k]);
      }
    };
    for (std::int32_t at = begin; at < end; ++at) {
      const std::int64_t row = p.token_rows[at];
      const float gate = p.row_gate ? p.row_gate[row] : 1.0f;
      for_fours([&](std::int64_t i, int n, float4& sum) {
        sum = map4(sum, load4(p.rows, row * p.dim + i, n), [&](float s, float v) { return s + gate * v; });
      });
    }
    for_fours([&](std::int64_t i, int n, float4& sum) { store4(p.y, token * p.dim + i, sum, n); });
  }
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
  const float gate = p.row_gate ? p.row_gate[row] : 1.0f;
  float dot = 0;
  Team::for_fours(p.dim, [&](std::int64_t i, int n) {
    const float4 dy = load4(p.dy, token * p.dim + i, n);
    if (p.drows.data) store4(p.drows, row * p.dim + i, map4(dy, [&](float v) { return gate * v; }), n);
    if (!p.drow_gate) return;
    const float4 product =
        map4(dy, load4(p.rows, row * p.dim + i, n), [](float a, float b) { return a * b; });
    dot += product.x + product.y + (product.z + product.w);  // what does not exist is 0
  });
  if (!p.drow_gate) return;
  dot = Team::sum(dot);
  if (Team::rank() == 0) p.drow_gate[row] = dot;
}
SOFTMOE_ROW_KERNELS(combine_rows_backward, CombineBackwardParams, combine_rows_backward)

}  // namespace softmoe::cuda
