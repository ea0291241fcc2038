// Row lists of a routing by index. Rows are expert-major: expert e's rows of group g follow those of group g
// - 1, by buffer position. The token side lists the rows of each token in ascending order: places are claimed
// in any order and sorted afterwards, a thread a token.
#include "cuda/kernels/any_floats.cuh"
#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/sparse_routing_params.h"

namespace softmoe::cuda {

constexpr int kThreads = 256;
constexpr int kScanThreads = 1024;

#define SOFTMOE_KERNEL(name, Params) \
  extern "C" __global__ void __launch_bounds__(kThreads) name(const __grid_constant__ Params p)

__device__ __forceinline__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// One block; 1024 numbers a turn.
extern "C" __global__ void __launch_bounds__(kScanThreads)
    exclusive_scan(const __grid_constant__ ExclusiveScan p) {
  __shared__ std::int32_t warp_totals[kScanThreads / kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  std::int32_t before = 0;
  for (std::int64_t begin = 0; begin < p.count; begin += kScanThreads) {
    const std::int64_t i = begin + threadIdx.x;
    const std::int32_t own = i < p.count ? p.x[i] : 0;
    std::int32_t sum = own;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const std::int32_t other = __shfl_up_sync(kFullWarp, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == kWarpSize - 1) warp_totals[warp] = sum;
    __syncthreads();
    std::int32_t turn = 0, earlier = 0;
    for (int w = 0; w < kScanThreads / kWarpSize; ++w) {
      if (w == warp) earlier = turn;
      turn += warp_totals[w];
    }
    if (i < p.count) p.y[i] = before + earlier + sum - own;
    before += turn;
    __syncthreads();
  }
  if (threadIdx.x == 0) p.y[p.count] = before;
}

SOFTMOE_KERNEL(count_rows, CountRows) {
  const std::int64_t token = thread_index();
  if (token >= p.shape.groups * p.shape.tokens) return;
  const std::int64_t group = divide(token, p.shape.tokens).value;
  std::int32_t rows = 0;
  for (std::int64_t i = token * p.k; i < (token + 1) * p.k; ++i) {
    if (p.position[i] >= p.capacity) continue;
    atomicAdd(p.expert_rows + p.expert[i] * p.shape.groups + group, 1);
    ++rows;
  }
  p.token_rows[token] = rows;
}

SOFTMOE_KERNEL(list_rows, ListRows) {
  const std::int64_t token = thread_index();
  if (token <= p.shape.experts) p.expert_offsets[token] = p.first_row[token * p.shape.groups];
  if (token >= p.shape.groups * p.shape.tokens) return;
  const std::int64_t group = divide(token, p.shape.tokens).value;
  std::int32_t at = p.token_offsets[token];
  for (std::int64_t i = token * p.k; i < (token + 1) * p.k; ++i) {
    if (p.position[i] >= p.capacity) continue;
    const std::int64_t row = std::int64_t{p.first_row[p.expert[i] * p.shape.groups + group]} + p.position[i];
    // Only positions that nobody checked lead out of the lists; the check comes after.
    if (row >= p.max_rows || at >= p.max_rows) continue;
    p.row_token[row] = static_cast<std::int32_t>(token);
    p.token_rows[at++] = static_cast<std::int32_t>(row);
  }
}

__device__ __forceinline__ std::int32_t chosen_token(const ListChosenTokens& p, std::int64_t i) {
  const std::int64_t group = divide(i, p.shape.experts * p.capacity).value;
  return static_cast<std::int32_t>(group * p.shape.tokens) + p.token[i];
}

SOFTMOE_KERNEL(count_chosen_tokens, ListChosenTokens) {
  const std::int64_t i = thread_index();
  if (i <= p.shape.experts) {
    p.expert_offsets[i] = static_cast<std::int32_t>(i * p.shape.groups * p.capacity);
  }
  if (i < p.shape.groups * p.shape.experts * p.capacity) atomicAdd(p.token_counts + chosen_token(p, i), 1);
}

SOFTMOE_KERNEL(list_chosen_tokens, ListChosenTokens) {
  const std::int64_t i = thread_index();
  if (i >= p.shape.groups * p.shape.experts * p.capacity) return;
  const Quotient place = divide(i, p.capacity), expert = divide(place.value, p.shape.experts);
  const std::int64_t row = (expert.rest * p.shape.groups + expert.value) * p.capacity + place.rest;
  const std::int32_t token = chosen_token(p, i);
  p.row_token[row] = token;
  p.token_rows[p.token_offsets[token] + atomicAdd(p.token_counts + token, 1)] =
      static_cast<std::int32_t>(row);
}

// Insertion: a token has a few rows.
SOFTMOE_KERNEL(sort_token_rows, SortTokenRows) {
  const std::int64_t token = thread_index();
  if (token >= p.tokens) return;
  const std::int32_t begin = p.token_offsets[token];
  const auto end = static_cast<std::int32_t>(min(std::int64_t{p.token_offsets[token + 1]}, p.max_rows));
  for (std::int32_t i = begin + 1; i < end; ++i) {
    const std::int32_t row = p.token_rows[i];
    std::int32_t place = i;
    for (; place > begin && p.token_rows[place - 1] > row; --place)
      p.token_rows[place] = p.token_rows[place - 1];
    p.token_rows[place] = row;
  }
}

// No two rows have both the token and the expert in common.
SOFTMOE_KERNEL(row_gates, RowGates) {
  const std::int64_t row = thread_index();
  if (row >= p.max_rows) return;
  if (row >= p.expert_offsets[p.experts]) {
    if (!p.backward) p.row_gate[row] = 0;
    return;
  }
  std::int64_t low = 0, high = p.experts;  // the last expert whose first row is at or before this one
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    if (p.expert_offsets[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  float* gate = p.gates + p.row_token[row] * p.experts + low;
  if (p.backward) {
    *gate = p.row_gate[row];
  } else {
    p.row_gate[row] = *gate;
  }
}

}  // namespace softmoe::cuda
