// Gradients of attention, after FlashAttention-2 (Dao, 2023). With P = exp(scale q k^T - log_sum_exp):
//   dP = do v^T, dS = scale P (dP - do . o), dq = dS k, dk = dS^T q, dv = P^T do
// with dropout factors on P in dv and on dP. Two passes make the scores anew: one block owns queries and
// walks over the keys for dq, one owns keys and walks over the queries for dk and dv. So every sum is made by
// one thread in ascending order. FLOP: 14 * queries * keys * dim a head. Heads above 128 take three passes,
// since the accumulators of dk and dv together do not fit into the registers: 16 * queries * keys * dim.
#include "cuda/kernels/attention_tiles.cuh"
#include "cuda/kernels/row_team.cuh"

namespace softmoe::cuda {

// row_dots[b, h, i] = o . d_o, a warp a row.
extern "C" __global__ void __launch_bounds__(kRowThreads)
    attention_row_dots(const __grid_constant__ AttentionRowDots p) {
  using Team = RowTeam<kWarpSize>;
  const std::int64_t row = Team::row();  // (b * queries + i) * heads + h
  if (row >= p.rows) return;
  const float dot = Team::sum_of(p.dim, [&](std::int64_t i, int n) {
    return map4(load4(p.o, row * p.dim + i, n), load4(p.d_o, row * p.dim + i, n),
                [](float a, float b) { return a * b; });
  });
  if (Team::rank() != 0) return;
  const Quotient by_head = divide(row, p.heads), by_query = divide(by_head.value, p.queries);
  p.row_dots[(by_query.value * p.heads + by_head.rest) * p.queries + by_query.rest] = dot;
}

// The owned rows are queries (q, do; streamed k, v) or keys (k, v; streamed q, do): either way the product of
// the first operands makes the scores, that of the second ones dP.
enum class GradientOf { kQueries, kKeys, kValues, kKeysAndValues };

template <class Tile, GradientOf kOf>
__device__ __forceinline__ void attention_gradient(const AttentionParams& p) {
  using T = typename Tile::T;
  constexpr bool kOwnsKeys = kOf != GradientOf::kQueries;
  constexpr bool kMakesFirst = kOf != GradientOf::kValues;                                        // dq, dk
  constexpr bool kMakesSecond = kOf == GradientOf::kValues || kOf == GradientOf::kKeysAndValues;  // dv
  extern __shared__ __align__(128) char shared[];
  const std::int64_t head = blockIdx.x / p.tiles;
  const int begin = blockIdx.x % p.tiles * Tile::kOwnRows;
  const int own_rows = kOwnsKeys ? p.keys : p.queries, streamed_rows = kOwnsKeys ? p.queries : p.keys;
  const std::int64_t own_at = Tile::head_offset(p, head, own_rows);
  const std::int64_t streamed_at = Tile::head_offset(p, head, streamed_rows);
  const auto operand = [](const void* data, std::int64_t at) { return static_cast<const T*>(data) + at; };
  char* own_second = shared + Tile::Own::kBytes;
  Tile::template fetch<typename Tile::Own>(shared, operand(kOwnsKeys ? p.k : p.q, own_at), begin, own_rows,
                                           p);
  if (kMakesFirst) {
    Tile::template fetch<typename Tile::Own>(own_second, operand(kOwnsKeys ? p.v : p.d_o, own_at), begin,
                                             own_rows, p);
  }

  const float scale = static_cast<float>(p.scale), scale_log2 = scale * kAttentionLog2E;
  const float* log_sum_exp = p.log_sum_exp + head * p.queries;
  const float* row_dots = p.row_dots + head * p.queries;
  float own_lse[2] = {0, 0}, own_dot[2] = {0, 0};
  if (!kOwnsKeys) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int query = begin + Tile::row_of(2 * r);
      if (query < p.queries) own_lse[r] = log_sum_exp[query] * kAttentionLog2E, own_dot[r] = row_dots[query];
    }
  }

  const float kept_factor = __fdividef(1.0f, 1.0f - static_cast<float>(p.dropout_rate));

  typename Tile::Rows first, second;  // dq, or dk and dv
  if (kMakesFirst) Tile::clear(first);
  if (kMakesSecond) Tile::clear(second);
  Tile::for_stream(
      shared + 2 * Tile::Own::kBytes, operand(kOwnsKeys ? p.q : p.k, streamed_at),
      operand(kOwnsKeys ? p.d_o : p.v, streamed_at), streamed_rows, p,
      [&](const char* streamed, const char* streamed_second, int first_row) {
        typename Tile::Scores probabilities, dscores;
        Tile::clear(probabilities);
        Tile::clear(dscores);
        Tile::multiply_rows(probabilities, shared, streamed, p.dim);
        if (kMakesFirst) Tile::multiply_rows(dscores, own_second, streamed_second, p.dim);
        std::uint32_t kept = ~0u;
        if (p.dropout_rate > 0) {
          kept = Tile::kept_scores(p, [&](int j, int e) {
            const int own = begin + Tile::row_of(e), other = first_row + Tile::column_of(j, e);
            return (head * p.queries + (kOwnsKeys ? other : own)) * p.keys + (kOwnsKeys ? own : other);
          });
        }
        // A lane brings the numbers of one streamed query for the whole warp.
        float streamed_lse = 0, streamed_dot = 0;
        if (kOwnsKeys) {
          const int query = first_row + static_cast<int>(threadIdx.x) % kWarpSize;
          if (query < min(first_row + Tile::kStream, streamed_rows)) {
            streamed_lse = log_sum_exp[query] * kAttentionLog2E;
            if (kMakesFirst) streamed_dot = row_dots[query];
          }
        }
#pragma unroll
        for (int j = 0; j < Tile::kScoreFragments; ++j) {
          float column_lse[2] = {0, 0}, column_dot[2] = {0, 0};
          if (kOwnsKeys) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              column_lse[c] = __shfl_sync(kFullWarp, streamed_lse, Tile::column_of(j, c));
              if (kMakesFirst) column_dot[c] = __shfl_sync(kFullWarp, streamed_dot, Tile::column_of(j, c));
            }
          }
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int own = begin + Tile::row_of(e), other = first_row + Tile::column_of(j, e);
            if (own >= own_rows || other >= streamed_rows) {
              probabilities[j][e] = dscores[j][e] = 0;
              continue;
            }
            const float lse = kOwnsKeys ? column_lse[e % 2] : own_lse[e / 2];
            const float dot = kOwnsKeys ? column_dot[e % 2] : own_dot[e / 2];
            const float probability = ptx::exp2_approximate(scale_log2 * probabilities[j][e] - lse);
            const float factor = kept >> (j * 4 + e) & 1 ? kept_factor : 0.0f;
            dscores[j][e] = scale * probability * (factor * dscores[j][e] - dot);
            probabilities[j][e] = factor * probability;
          }
        }
        if (kMakesFirst) Tile::multiply_scores(first, dscores, streamed, p.dim);
        if (kMakesSecond) Tile::multiply_scores(second, probabilities, streamed_second, p.dim);
      });
  const auto one = [](int) { return 1.0f; };
  if (kMakesFirst)
    Tile::store_rows(first, static_cast<T*>(kOwnsKeys ? p.dk : p.dq) + own_at, begin, own_rows, p, one);
  if (kMakesSecond) Tile::store_rows(second, static_cast<T*>(p.dv) + own_at, begin, own_rows, p, one);
}

#define SOFTMOE_ATTENTION_GRADIENT(name, T, dim, warps, stream, of)                   \
  extern "C" __global__ void __launch_bounds__(32 * warps)                            \
      name(const __grid_constant__ AttentionParams params) {                          \
    attention_gradient<AttentionTile<T, dim, warps, stream>, GradientOf::of>(params); \
  }
#define SOFTMOE_ATTENTION_GRADIENTS(type, T, dim)                                                \
  SOFTMOE_ATTENTION_GRADIENT(attention_queries_gradient_##type##_##dim, T, dim, 4, 32, kQueries) \
  SOFTMOE_ATTENTION_GRADIENT(attention_keys_gradient_##type##_##dim, T, dim, 4, 32, kKeysAndValues)
// 96 KiB of shared memory.
#define SOFTMOE_LONG_ATTENTION_GRADIENTS(type, T, warps)                                           \
  SOFTMOE_ATTENTION_GRADIENT(attention_queries_gradient_##type##_256, T, 256, warps, 16, kQueries) \
  SOFTMOE_ATTENTION_GRADIENT(attention_keys_gradient_##type##_256, T, 256, warps, 16, kKeys)       \
  SOFTMOE_ATTENTION_GRADIENT(attention_values_gradient_##type##_256, T, 256, warps, 16, kValues)
SOFTMOE_ATTENTION_GRADIENTS(bfloat16, bfloat16, 64)
SOFTMOE_ATTENTION_GRADIENTS(bfloat16, bfloat16, 128)
SOFTMOE_ATTENTION_GRADIENTS(float32, float, 64)
SOFTMOE_ATTENTION_GRADIENTS(float32, float, 128)
SOFTMOE_LONG_ATTENTION_GRADIENTS(bfloat16, bfloat16, 4)
SOFTMOE_LONG_ATTENTION_GRADIENTS(float32, float, 2)

}  // namespace softmoe::cuda
