// Soft MoE routing, forward.
//
// Logits: one product x phi [tokens, dim] x [dim, slots] a sequence. A block owns 64 tokens with all their
// slots: from its tiles of x it takes the sums of squares (the norm of a token commutes with the product),
// from its tiles of logits the log-sum-exp of each row and the maximum and sum of each column, which a
// second, small kernel joins. So the logits are written once and not read again for either softmax. bfloat16
// tokens meet phi as the sum of three bfloat16 parts, in a product of three times the depth: the logits are
// as accurate as in float32.
//
// Dispatch and combine: products whose operand a is made from the logits while it is loaded; D and C are
// never stored. Bytes: logits + x + y (weights of float32 x element size); FLOP: 2 * tokens * slots * dim
// each.
#include "core/philox.h"
#include "cuda/kernels/gemm.cuh"
#include "cuda/kernels/reduce.cuh"
#include "cuda/kernels/soft_weights.cuh"

namespace softmoe::cuda {

// --- norms of the slots
// ----------------------------------------------------------------------------------------

constexpr int kPhiParts = 3;  // of 8 bits each: all 24 of a float32
constexpr int kColumnsOfBlock = 32, kRowsOfBlock = 8;

extern "C" __global__ void __launch_bounds__(kColumnsOfBlock* kRowsOfBlock)
    soft_slot_norms(const __grid_constant__ SlotNorms p) {
  __shared__ float sums[kRowsOfBlock][kColumnsOfBlock];
  const int lane = threadIdx.x % kColumnsOfBlock, part = threadIdx.x / kColumnsOfBlock;
  const int j = blockIdx.x * kColumnsOfBlock + lane;
  const std::size_t count = static_cast<std::size_t>(p.dim) * p.slots;
  bfloat16* parts = static_cast<bfloat16*>(p.parts);
  float squares = 0;
  if (j < p.slots) {
    for (int d = part; d < p.dim; d += kRowsOfBlock) {
      const std::size_t at = static_cast<std::size_t>(d) * p.slots + j;
      const float value = p.phi[at];
      squares += value * value;
      if (parts) {
        float rest = value;
        for (int e = 0; e < kPhiParts; ++e) {
          parts[e * count + at] = from_float<bfloat16>(rest);
          rest -= rounded<bfloat16>(rest);
        }
      }
    }
  }
  sums[part][lane] = squares;
  __syncthreads();
  if (part != 0 || j >= p.slots) return;
  float total = 0;
  for (int r = 0; r < kRowsOfBlock; ++r) total += sums[r][lane];
  p.slot_norm[j] = p.eps_inside_root ? rsqrtf(total + p.eps) : 1.0f / (sqrtf(total) + p.eps);
}

// --- logits with norms and statistics
// -----------------------------------------------------------------------------

template <class T>
using LogitsTile = GemmTile<T, 64, 128, 2, 2, 128, 3, Layout::kDepthContiguous, Layout::kDepthStrided>;

// x again for every part of phi, and the parts one after the other.
template <class Copied>
struct RepeatedOperand {
  Copied operand;
  int tiles;
  __device__ __forceinline__ void fetch(char* panel, int tile) { operand.fetch(panel, tile % tiles); }
  __device__ __forceinline__ void store(char*, int) {}
};
template <class Copied>
struct PartsOperand {
  Copied operand;
  int tiles;
  std::size_t part_elements;
  __device__ __forceinline__ void fetch(char* panel, int tile) {
    operand.fetch(panel, tile % tiles, tile / tiles * part_elements);
  }
  __device__ __forceinline__ void store(char*, int) {}
};

__device__ __forceinline__ float noise(const RandomKey& key, std::size_t index) { return normal(key, index); }

template <class T>
__device__ __forceinline__ void soft_logits(const SoftLogits& p) {
  using Tile = LogitsTile<T>;
  constexpr int kThreads = Tile::kThreads, kRows = Tile::kM, kWarps = kThreads / kWarpSize;
  constexpr int kParts = sizeof(T) == 2 ? kPhiParts : 1;
  extern __shared__ __align__(128) char shared[];
  __shared__ float token_norm[kRows];
  __shared__ MaxAndSum row_stats[kRows];
  __shared__ bool valid[kRows];

  const int b = blockIdx.x / p.row_tiles, row_tile = blockIdx.x % p.row_tiles;
  const int first = row_tile * kRows, rows = min(kRows, p.shape.tokens - first);
  const std::size_t sequence = static_cast<std::size_t>(b) * p.shape.tokens;
  const int dim = p.shape.dim, slots = p.shape.slots;
  const int tiles = (dim + Tile::kDepth - 1) / Tile::kDepth;
  const float scale = *p.scale;
  const T* x = static_cast<const T*>(p.x) + sequence * dim;
  const T* phi = static_cast<const T*>(p.phi);
  float* logits = p.logits + sequence * slots;
  float* result = reinterpret_cast<float*>(shared);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;

  for (int r = threadIdx.x; r < kRows; r += kThreads) {
    row_stats[r] = {-INFINITY, 0.0f};
    valid[r] = r < rows && (!p.mask || p.mask[sequence + first + r] != 0);
  }

  using CopiedX = CopiedOperand<T, typename Tile::PanelA, kThreads, SameRow>;
  using CopiedPhi = CopiedOperand<T, typename Tile::PanelB, kThreads, SameRow>;
  RepeatedOperand<CopiedX> source_x{CopiedX(x, dim, {first, first + rows, 0, dim}, p.x_aligned, {}), tiles};

  for (int column = 0; column < slots; column += Tile::kN) {
    const OperandRange range{column, min(column + Tile::kN, slots), 0, dim};
    PartsOperand<CopiedPhi> source_phi{CopiedPhi(phi, slots, range, p.phi_aligned, {}), tiles,
                                       static_cast<std::size_t>(dim) * slots};
    typename Tile::Accumulators c;
    Tile::clear(c);
    // Two threads share a row: each squares one half of the columns of every slice.
    static_assert(kThreads == 2 * kRows);
    const int norm_row = threadIdx.x / 2, half = threadIdx.x % 2;
    float squares = 0;
    Tile::multiply(c, source_x, source_phi, tiles * kParts, shared, p.exact,
                   [&](const char* panel_x, const char*, int tile) {
                     if (column > 0 || tile >= tiles) return;
                     using PanelX = typename Tile::PanelA;
                     for (int k = half * (PanelX::kChunks / 2); k < (half + 1) * (PanelX::kChunks / 2); ++k) {
                       const T* chunk = reinterpret_cast<const T*>(panel_x + PanelX::offset(norm_row, k));
#pragma unroll
                       for (int e = 0; e < PanelX::kChunkElements; e += 4) {
                         const float4 v = load4(chunk + e);
                         squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
                       }
                     }
                   });
    if (column == 0) {
      squares += __shfl_xor_sync(kFullWarp, squares, 1);
      const float norm = p.eps_inside_root ? rsqrtf(squares + p.eps) : 1.0f / (sqrtf(squares) + p.eps);
      if (half == 0) {
        token_norm[norm_row] = norm;
        if (norm_row < rows) p.token_norm[sequence + first + norm_row] = norm;
      }
    }
    Tile::to_shared(c, result);

    // A thread meets the same four columns in every row.
    static_assert(kThreads % (Tile::kN / 4) == 0);
    const int own = column + static_cast<int>(threadIdx.x) % (Tile::kN / 4) * 4;
    const float4 norm = own < slots ? load4_partial(p.slot_norm + own, min(slots - own, 4), p.logits_aligned)
                                    : make_float4(0, 0, 0, 0);
    Tile::for_each_four(result, [&](int r, int c4, float4 v) {
      const int j = column + c4, count = min(slots - j, 4);
      if (r >= rows || count <= 0) return;
      const float factor = token_norm[r];
      v = make_float4(v.x * (norm.x * scale) * factor, v.y * (norm.y * scale) * factor,
                      v.z * (norm.z * scale) * factor, v.w * (norm.w * scale) * factor);
      const std::size_t at = static_cast<std::size_t>(first + r) * slots + j;
      if (p.noise_std != 0) {
        const std::size_t index = sequence * slots + at;
        v.x += p.noise_std * noise(p.key, index);
        v.y += p.noise_std * noise(p.key, index + 1);
        v.z += p.noise_std * noise(p.key, index + 2);
        v.w += p.noise_std * noise(p.key, index + 3);
      }
      store4_partial(logits + at, v, count, p.logits_aligned);
      store4(result + r * Tile::kResultPitch + c4, v);
    });
    __syncthreads();

    if (p.column_stats) {
      static_assert(kThreads == Tile::kN, "a thread owns a column");
      const int j = column + static_cast<int>(threadIdx.x);
      const float* value = result + threadIdx.x;
      MaxAndSum stats{-INFINITY, 0.0f};
      if (j < slots) {
        for (int r = 0; r < rows; ++r) {
          if (valid[r]) stats.max = fmaxf(stats.max, value[r * Tile::kResultPitch]);
        }
        for (int r = 0; r < rows; ++r) {
          if (valid[r]) stats.sum += exponential(value[r * Tile::kResultPitch] - stats.max);
        }
        p.column_stats[(static_cast<std::size_t>(b) * p.row_tiles + row_tile) * slots + j] = stats;
      }
    }
    if (p.combine_lse) {
      for (int r = warp; r < rows; r += kWarps) {
        const float* row = result + r * Tile::kResultPitch;
        const int count = min(slots - column, Tile::kN);
        float largest = -INFINITY;
        for (int c1 = lane; c1 < count; c1 += kWarpSize) largest = fmaxf(largest, row[c1]);
        const MaxAndSum before = row_stats[r];
        largest = fmaxf(warp_max(largest), before.max);
        float sum = 0;
        for (int c1 = lane; c1 < count; c1 += kWarpSize) sum += exponential(row[c1] - largest);
        sum = warp_sum(sum) + before.sum * exponential(before.max - largest);
        __syncwarp();
        if (lane == 0) row_stats[r] = {largest, sum};
      }
    }
    __syncthreads();
  }
  if (p.combine_lse) {
    for (int r = threadIdx.x; r < rows; r += kThreads) {
      p.combine_lse[sequence + first + r] = row_stats[r].max + logf(row_stats[r].sum);
    }
  }
}

extern "C" __global__ void __launch_bounds__(128, 2)
    soft_logits_bfloat16(const __grid_constant__ SoftLogits params) {
  soft_logits<bfloat16>(params);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    soft_logits_float32(const __grid_constant__ SoftLogits params) {
  soft_logits<float>(params);
}

constexpr int kThreads = 256;

extern "C" __global__ void __launch_bounds__(kThreads)
    soft_finish_dispatch(const __grid_constant__ FinishDispatch p) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= p.batch * p.slots) return;
  const int b = i / p.slots, j = i % p.slots;
  const MaxAndSum* stats = p.column_stats + static_cast<std::size_t>(b) * p.row_tiles * p.slots + j;
  float largest = -INFINITY, sum = 0;
  for (int t = 0; t < p.row_tiles; ++t) {
    const MaxAndSum part = stats[t * p.slots];
    if (part.sum == 0) continue;  // no valid token in these rows
    const float before = largest;
    largest = fmaxf(before, part.max);
    sum = sum * exponential(before - largest) + part.sum * exponential(part.max - largest);
  }
  // No valid token: D = exp(logit - infinity) = 0.
  p.dispatch_lse[i] = sum > 0 ? largest + logf(sum) : INFINITY;
}

// --- weights that are not soft, and weights to look at
// -----------------------------------------------------------

extern "C" __global__ void __launch_bounds__(kThreads)
    soft_dispatch_values(const __grid_constant__ DispatchValues p) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= p.shape.batch * p.shape.slots) return;
  const int b = i / p.shape.slots, j = i % p.shape.slots, period = min(p.shape.tokens, p.shape.slots);
  const int first = p.identity ? j % period : 0, step = p.identity ? period : 1;
  int count = 0;
  for (int m = first; m < p.shape.tokens; m += step) {
    count += !p.mask || p.mask[static_cast<std::size_t>(b) * p.shape.tokens + m] != 0;
  }
  p.values[i] = count > 0 ? 1.0f / static_cast<float>(count) : 0.0f;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    soft_write_weights(const __grid_constant__ WriteWeights p) {
  const int fours = (p.weights.slots + 3) / 4;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t row = i / fours;
  if (row >= static_cast<std::int64_t>(p.batch) * p.weights.tokens) return;
  const int b = static_cast<int>(row / p.weights.tokens), m = static_cast<int>(row % p.weights.tokens);
  const int j = static_cast<int>(i % fours) * 4;
  store4_partial(p.y + row * p.weights.slots + j,
                 weights_of(p.weights, b, m, j, load_logits(p.weights, b, m, j)), p.weights.slots - j,
                 p.weights.aligned);
}

// --- dispatch and combine
// ---------------------------------------------------------------------------------------

template <class Tile, class StoreRow>
__device__ __forceinline__ void store_weighted_sum(const WeightedSum& p, const float* result, int rows,
                                                   int column, StoreRow memory_row) {
  Tile::for_each_four(result, [&](int r, int c4, float4 v) {
    const int count = min(p.shape.dim - column - c4, 4);
    if (r >= rows || count <= 0) return;
    const std::size_t at = static_cast<std::size_t>(memory_row(r)) * p.shape.dim + column + c4;
    store4_output(p, at, v, count);
  });
}

// slots [slots, dim] = weights^T [slots, tokens] x [tokens, dim] of sequence b.
template <class Tile>
__device__ __forceinline__ void tokens_to_slots(const WeightedSum& p) {
  using T = typename Tile::T;
  extern __shared__ __align__(128) char shared[];
  int index = blockIdx.x;
  const int first = index % p.row_tiles * Tile::kM;
  index /= p.row_tiles;
  const int column = index % p.column_tiles * Tile::kN, b = index / p.column_tiles;
  const int tokens = p.shape.tokens, dim = p.shape.dim;

  WeightOperand<T, typename Tile::PanelA, Tile::kThreads> weights(p.weights, b, first);
  CopiedOperand<T, typename Tile::PanelB, Tile::kThreads, SameRow> x(
      static_cast<const T*>(p.x) + static_cast<std::size_t>(b) * tokens * dim, dim,
      {column, min(column + Tile::kN, dim), 0, tokens}, p.x_aligned, {});
  typename Tile::Accumulators c;
  Tile::clear(c);
  Tile::multiply(c, weights, x, (tokens + Tile::kDepth - 1) / Tile::kDepth, shared, p.exact);
  float* result = reinterpret_cast<float*>(shared);
  Tile::to_shared(c, result);
  store_weighted_sum<Tile>(p, result, min(Tile::kM, p.shape.slots - first), column,
                           [&](int r) { return slot_row(p.shape, b, first + r); });
}

// y [tokens, dim] = weights [tokens, slots] slot rows [slots, dim] of sequence b.
template <class Tile>
__device__ __forceinline__ void slots_to_tokens(const WeightedSum& p) {
  using T = typename Tile::T;
  extern __shared__ __align__(128) char shared[];
  int index = blockIdx.x;
  const int first = index % p.row_tiles * Tile::kM;
  index /= p.row_tiles;
  const int column = index % p.column_tiles * Tile::kN, b = index / p.column_tiles;
  const int slots = p.shape.slots, dim = p.shape.dim;

  WeightOperand<T, typename Tile::PanelA, Tile::kThreads> weights(p.weights, b, first);
  CopiedOperand<T, typename Tile::PanelB, Tile::kThreads, SlotRow> x(
      static_cast<const T*>(p.x), dim, {column, min(column + Tile::kN, dim), 0, slots}, p.x_aligned,
      {p.shape, b});
  typename Tile::Accumulators c;
  Tile::clear(c);
  Tile::multiply(c, weights, x, (slots + Tile::kDepth - 1) / Tile::kDepth, shared, p.exact);
  float* result = reinterpret_cast<float*>(shared);
  Tile::to_shared(c, result);
  store_weighted_sum<Tile>(p, result, min(Tile::kM, p.shape.tokens - first), column,
                           [&](int r) { return b * p.shape.tokens + first + r; });
}

// Small tiles for small batches, where the larger would leave most of the GPU idle.
template <class T, Layout kLayoutA>
using SmallSumTile = GemmTile<T, 32, 64, 2, 2, 64, 3, kLayoutA, Layout::kDepthStrided>;
template <class T, Layout kLayoutA>
using LargeSumTile = GemmTile<T, 64, 128, 2, 2, 64, 3, kLayoutA, Layout::kDepthStrided>;

#define SOFTMOE_WEIGHTED_SUM(name, function, layout)                      \
  extern "C" __global__ void __launch_bounds__(128, 2)                    \
      name##_small_bfloat16(const __grid_constant__ WeightedSum params) { \
    function<SmallSumTile<bfloat16, layout>>(params);                     \
  }                                                                       \
  extern "C" __global__ void __launch_bounds__(128, 2)                    \
      name##_small_float32(const __grid_constant__ WeightedSum params) {  \
    function<SmallSumTile<float, layout>>(params);                        \
  }                                                                       \
  extern "C" __global__ void __launch_bounds__(128, 2)                    \
      name##_large_bfloat16(const __grid_constant__ WeightedSum params) { \
    function<LargeSumTile<bfloat16, layout>>(params);                     \
  }                                                                       \
  extern "C" __global__ void __launch_bounds__(128, 2)                    \
      name##_large_float32(const __grid_constant__ WeightedSum params) {  \
    function<LargeSumTile<float, layout>>(params);                        \
  }

SOFTMOE_WEIGHTED_SUM(soft_tokens_to_slots, tokens_to_slots, Layout::kDepthStrided)
SOFTMOE_WEIGHTED_SUM(soft_slots_to_tokens, slots_to_tokens, Layout::kDepthContiguous)

}  // namespace softmoe::cuda
