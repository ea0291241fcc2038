// Multi-head attention forward, o = softmax(scale q k^T) v, after FlashAttention-2 (Dao, 2023): a block owns
// 64 queries of a head and walks over the keys in tiles of 64 with a running maximum and sum, so no score
// reaches memory. Tiles of 32 keys for float32 and for heads above 128 elements, and where both hold 16 keys
// and 32 queries: more does not fit into the registers and into 99 KiB. Bytes: q, k, v, o once each (k and v
// again for every 64 queries, from the L2 cache). FLOP: 4 * queries * keys * dim a head.
#include "cuda/kernels/attention_tiles.cuh"
#include "cuda/kernels/reduce.cuh"

namespace softmoe::cuda {

// Over the four lanes that share a row of a fragment.
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kFullWarp, x, 1);
  return x + __shfl_xor_sync(kFullWarp, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, 1));
  return fmaxf(x, __shfl_xor_sync(kFullWarp, x, 2));
}

template <class Tile>
__device__ __forceinline__ void attention(const AttentionParams& p) {
  using T = typename Tile::T;
  extern __shared__ __align__(128) char shared[];
  const std::int64_t head = blockIdx.x / p.tiles;
  const int begin = blockIdx.x % p.tiles * Tile::kOwnRows;
  const std::int64_t q_at = Tile::head_offset(p, head, p.queries), k_at = Tile::head_offset(p, head, p.keys);
  Tile::template fetch<typename Tile::Own>(shared, static_cast<const T*>(p.q) + q_at, begin, p.queries, p);

  const float scale = static_cast<float>(p.scale) * kAttentionLog2E;
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};  // of scale * log2(e) * scores
  typename Tile::Rows o;
  Tile::clear(o);
  Tile::for_stream(shared + Tile::Own::kBytes, static_cast<const T*>(p.k) + k_at,
                   static_cast<const T*>(p.v) + k_at, p.keys, p,
                   [&](const char* k, const char* v, int first_key) {
                     typename Tile::Scores s;
                     Tile::clear(s);
                     Tile::multiply_rows(s, shared, k, p.dim);
                     float largest[2] = {top[0], top[1]};
#pragma unroll
                     for (int j = 0; j < Tile::kScoreFragments; ++j) {
#pragma unroll
                       for (int e = 0; e < 4; ++e) {
                         s[j][e] = first_key + Tile::column_of(j, e) < p.keys ? scale * s[j][e] : -INFINITY;
                         largest[e / 2] = fmaxf(largest[e / 2], s[j][e]);
                       }
                     }
                     float correction[2], tile_sum[2] = {0, 0};
#pragma unroll
                     for (int r = 0; r < 2; ++r) {
                       largest[r] = quad_max(largest[r]);
                       if (largest[r] == -INFINITY) largest[r] = 0;
                       correction[r] = ptx::exp2_approximate(top[r] - largest[r]);
                       top[r] = largest[r];
                     }
#pragma unroll
                     for (int j = 0; j < Tile::kScoreFragments; ++j) {
#pragma unroll
                       for (int e = 0; e < 4; ++e) {
                         s[j][e] = ptx::exp2_approximate(s[j][e] - top[e / 2]);
                         tile_sum[e / 2] += s[j][e];
                       }
                     }
#pragma unroll
                     for (int r = 0; r < 2; ++r) sum[r] = sum[r] * correction[r] + quad_sum(tile_sum[r]);
                     if (p.dropout_rate > 0) {
                       const std::uint32_t kept = Tile::kept_scores(p, [&](int j, int e) {
                         const std::int64_t row = head * p.queries + begin + Tile::row_of(e);
                         return row * p.keys + first_key + Tile::column_of(j, e);
                       });
                       const float factor = __fdividef(1.0f, 1.0f - static_cast<float>(p.dropout_rate));
#pragma unroll
                       for (int j = 0; j < Tile::kScoreFragments; ++j) {
#pragma unroll
                         for (int e = 0; e < 4; ++e)
                           s[j][e] = kept >> (j * 4 + e) & 1 ? s[j][e] * factor : 0.0f;
                       }
                     }
#pragma unroll
                     for (int j = 0; j < Tile::kDimFragments; ++j) {
#pragma unroll
                       for (int e = 0; e < 4; ++e) o[j][e] *= correction[e / 2];
                     }
                     Tile::multiply_scores(o, s, v, p.dim);
                   });

  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) inverse[r] = sum[r] == 0 ? 0 : __fdividef(1.0f, sum[r]);
  Tile::store_rows(o, static_cast<T*>(p.o) + q_at, begin, p.queries, p,
                   [&](int e) { return inverse[e / 2]; });
  if (!p.log_sum_exp || threadIdx.x % 4 != 0) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = begin + Tile::row_of(2 * r);
    if (row < p.queries) p.log_sum_exp[head * p.queries + row] = top[r] * kAttentionLn2 + logf(sum[r]);
  }
}

#define SOFTMOE_ATTENTION(name, T, dim, warps, keys)         \
  extern "C" __global__ void __launch_bounds__(32 * warps)   \
      name(const __grid_constant__ AttentionParams params) { \
    attention<AttentionTile<T, dim, warps, keys>>(params);   \
  }
SOFTMOE_ATTENTION(attention_bfloat16_64, bfloat16, 64, 4, 64)
SOFTMOE_ATTENTION(attention_bfloat16_128, bfloat16, 128, 4, 64)
SOFTMOE_ATTENTION(attention_bfloat16_256, bfloat16, 256, 4, 32)
SOFTMOE_ATTENTION(attention_float32_64, float, 64, 4, 32)
SOFTMOE_ATTENTION(attention_float32_128, float, 128, 4, 32)
SOFTMOE_ATTENTION(attention_float32_256, float, 256, 2, 16)

}  // namespace softmoe::cuda
