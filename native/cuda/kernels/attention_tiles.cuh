// What the attention kernels share. A block of two or four warps owns 16 rows a warp of a head (queries, or
// keys for the gradients of keys and values) in shared memory; the other side streams by in tiles. Scores
// stay in registers, where the accumulators of one product are the left operand of the next.
//
// Panels are [rows][kDim] (panel.cuh), zero beyond the head's own dim; products skip what is beyond it.
// bfloat16 uses mma m16n8k16; float32 splits its operands into two tf32 halves (tf32.cuh).
#pragma once

#include "cuda/kernels/attention_params.h"
#include "cuda/kernels/dropout.cuh"
#include "cuda/kernels/operand.cuh"
#include "cuda/kernels/tf32.cuh"

namespace softmoe::cuda {

constexpr float kAttentionLog2E = 1.4426950408889634f;
constexpr float kAttentionLn2 = 0.6931471805599453f;

template <class T_, int kDim_, int kWarps, int kStream_>
struct AttentionTile {
  using T = T_;
  static constexpr int kDim = kDim_, kStream = kStream_;
  static constexpr int kThreads = 32 * kWarps, kOwnRows = 16 * kWarps;
  static constexpr bool kIsFloat = sizeof(T) == 4;
  // Float32 tiles are twice as large: one stage is what fits beside the owned rows in 99 KiB.
  static constexpr int kStages = kIsFloat ? 1 : 2;
  using Own = Panel<T, kOwnRows, kDim, Layout::kDepthContiguous>;
  using Streamed = Panel<T, kStream, kDim, Layout::kDepthContiguous>;
  // The same panel with its rows as the depth. The layouts agree for 16-bit elements.
  using StreamedDepth = Panel<T, kDim, kStream, Layout::kDepthStrided>;
  static constexpr int kStepElements = 32 / static_cast<int>(sizeof(T));
  static constexpr int kScoreFragments = kStream / 8, kDimFragments = kDim / 8;
  using Scores = float[kScoreFragments][4];
  using Rows = float[kDimFragments][4];

  template <int kFragments>
  static __device__ __forceinline__ void clear(float (&c)[kFragments][4]) {
#pragma unroll
    for (int j = 0; j < kFragments; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[j][e] = 0;
  }

  // c += own rows of this warp * streamed^T over the head's dim.
  static __device__ __forceinline__ void multiply_rows(Scores& c, const char* own, const char* streamed,
                                                       int dim) {
    const int row = threadIdx.x / 32 * 16;
#pragma unroll(kIsFloat ? 1 : kDim / kStepElements)
    for (int step = 0; step < kDim / kStepElements; ++step) {
      if (step * kStepElements >= dim) break;
      std::uint32_t a[4];
      Own::load_a(a, own, row, step);
      if constexpr (kIsFloat) {
        std::uint32_t a_rest[4];
        split_tf32(a, a_rest);
#pragma unroll
        for (int j = 0; j < kScoreFragments; j += 2) {
          std::uint32_t b[4], b_rest[4];
          Streamed::load_b(b, streamed, j * 8, step);
          split_tf32(b, b_rest);
          ptx::mma_tf32(c[j], a_rest, b[0], b[1]);
          ptx::mma_tf32(c[j + 1], a_rest, b[2], b[3]);
          ptx::mma_tf32(c[j], a, b_rest[0], b_rest[1]);
          ptx::mma_tf32(c[j + 1], a, b_rest[2], b_rest[3]);
          ptx::mma_tf32(c[j], a, b[0], b[1]);
          ptx::mma_tf32(c[j + 1], a, b[2], b[3]);
        }
      } else {
#pragma unroll
        for (int j = 0; j < kScoreFragments; j += 2) {
          std::uint32_t b[4];
          Streamed::load_b(b, streamed, j * 8, step);
          ptx::mma_bfloat16(c[j], a, b[0], b[1]);
          ptx::mma_bfloat16(c[j + 1], a, b[2], b[3]);
        }
      }
    }
  }

  // c += scores * streamed over the streamed rows.
  static __device__ __forceinline__ void multiply_scores(Rows& c, const Scores& scores, const char* streamed,
                                                         int dim) {
    if constexpr (kIsFloat) {
      const int lane = threadIdx.x % 32;
#pragma unroll
      for (int step = 0; step < kScoreFragments; ++step) {
        // Accumulators hold the columns 2t, 2t + 1 of lane t, the operand wants t, t + 4: the depth is taken
        // in that other order on both sides.
        std::uint32_t a[4] = {__float_as_uint(scores[step][0]), __float_as_uint(scores[step][2]),
                              __float_as_uint(scores[step][1]), __float_as_uint(scores[step][3])};
        std::uint32_t a_rest[4];
        split_tf32(a, a_rest);
        const int row = step * 8 + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < kDimFragments; ++j) {
          if (j * 8 >= dim) break;
          const int column = j * 8 + lane / 4;
          std::uint32_t b[2] = {__float_as_uint(Streamed::element(streamed, row, column)),
                                __float_as_uint(Streamed::element(streamed, row + 1, column))};
          std::uint32_t b_rest[2];
          split_tf32(b, b_rest);
          ptx::mma_tf32(c[j], a_rest, b[0], b[1]);
          ptx::mma_tf32(c[j], a, b_rest[0], b_rest[1]);
          ptx::mma_tf32(c[j], a, b[0], b[1]);
        }
      }
    } else {
#pragma unroll
      for (int step = 0; step < kStream / 16; ++step) {
        const auto& left = scores[2 * step];
        const auto& right = scores[2 * step + 1];
        const std::uint32_t a[4] = {
            ptx::pack_bfloat16(left[0], left[1]), ptx::pack_bfloat16(left[2], left[3]),
            ptx::pack_bfloat16(right[0], right[1]), ptx::pack_bfloat16(right[2], right[3])};
#pragma unroll
        for (int j = 0; j < kDimFragments; j += 2) {
          if (j * 8 >= dim) break;
          std::uint32_t b[4];
          StreamedDepth::load_b(b, streamed, j * 8, step);
          ptx::mma_bfloat16(c[j], a, b[0], b[1]);
          ptx::mma_bfloat16(c[j + 1], a, b[2], b[3]);
        }
      }
    }
  }

  // Starts the copy of the rows [begin, begin + panel's rows) of a head, of which those below `end` exist.
  template <class Panel>
  static __device__ __forceinline__ void fetch(char* panel, const T* head, int begin, int end,
                                               const AttentionParams& p) {
    const CopiedOperand<T, Panel, kThreads, SameRow> source(head, p.heads * p.dim, {begin, end, 0, p.dim},
                                                            p.aligned, {});
    source.fetch(panel, 0);
  }

  // Calls body(first panel, second panel, first row) for each tile of the two streamed operands.
  template <class Body>
  static __device__ __forceinline__ void for_stream(char* stages, const T* first, const T* second, int rows,
                                                    const AttentionParams& p, Body body) {
    constexpr int kStageBytes = 2 * Streamed::kBytes;
    const int tiles = (rows + kStream - 1) / kStream;
    const auto start = [&](int tile) {
      if (tile < tiles) {
        char* stage = stages + tile % kStages * kStageBytes;
        fetch<Streamed>(stage, first, tile * kStream, rows, p);
        fetch<Streamed>(stage + Streamed::kBytes, second, tile * kStream, rows, p);
      }
      ptx::copy_async_commit();
    };
    start(0);
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
      if (kStages > 1) start(tile + 1);
      ptx::copy_async_wait<kStages - 1>();
      __syncthreads();
      const char* stage = stages + tile % kStages * kStageBytes;
      body(stage, stage + Streamed::kBytes, tile * kStream);
      __syncthreads();
      if (kStages == 1) start(tile + 1);
    }
    ptx::copy_async_wait<0>();
  }

  // Row (0 or 8 added) and column of element e of this lane's fragments.
  static __device__ __forceinline__ int row_of(int e) {
    return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + e / 2 * 8;
  }
  static __device__ __forceinline__ int column_of(int fragment, int e) {
    return fragment * 8 + threadIdx.x % 4 * 2 + e % 2;
  }

  // Bit fragment * 4 + e: whether dropout keeps that score, whose index is index_of(fragment, e). A loop and
  // a mask, since the random numbers are too long a code to be repeated for every score.
  template <class IndexOf>
  static __device__ __forceinline__ std::uint32_t kept_scores(const AttentionParams& p, IndexOf index_of) {
    static_assert(kScoreFragments * 4 <= 32, "one bit a score");
    const float rate = static_cast<float>(p.dropout_rate);
    std::uint32_t kept = 0;
#pragma unroll 1
    for (int bit = 0; bit < kScoreFragments * 4; ++bit) {
      if (dropout_factor(p.key, index_of(bit / 4, bit % 4), rate) != 0) kept |= 1u << bit;
    }
    return kept;
  }

  // Writes factor(e) * c to the rows of a head. Called by whole warps.
  template <class Factor>
  static __device__ __forceinline__ void store_rows(const Rows& c, T* head, int begin, int end,
                                                    const AttentionParams& p, Factor factor) {
    static_assert(kDimFragments % 2 == 0, "two fragments of bfloat16 fill a sector");
#pragma unroll
    for (int j = 0; j < kDimFragments; j += kIsFloat ? 1 : 2) {
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const int row = begin + row_of(e);
        T* y = head + static_cast<std::int64_t>(row) * p.heads * p.dim;
        const auto pair = [&](int fragment) {
          return make_float2(factor(e) * c[fragment][e], factor(e) * c[fragment][e + 1]);
        };
        if (!p.aligned) {
#pragma unroll
          for (int fragment = j; fragment < j + (kIsFloat ? 1 : 2); ++fragment) {
            const int column = column_of(fragment, e);
            const float2 v = pair(fragment);
            if (row < end && column < p.dim) y[column] = from_float<T>(v.x);
            if (row < end && column + 1 < p.dim) y[column + 1] = from_float<T>(v.y);
          }
        } else if constexpr (kIsFloat) {
          const int column = column_of(j, e);
          if (row < end && column < p.dim) *reinterpret_cast<float2*>(y + column) = pair(j);
        } else {
          // Neighbouring lanes exchange pairs, so that each has four columns of one fragment.
          const float2 left = pair(j), right = pair(j + 1);
          const bool odd = threadIdx.x % 2 == 1;
          const std::uint32_t own_left = ptx::pack_bfloat16(left.x, left.y);
          const std::uint32_t own_right = ptx::pack_bfloat16(right.x, right.y);
          const std::uint32_t other = __shfl_xor_sync(~0u, odd ? own_left : own_right, 1);
          const int column = odd ? column_of(j + 1, e) - 2 : column_of(j, e);
          if (row < end && column < p.dim) {
            *reinterpret_cast<uint2*>(y + column) =
                odd ? make_uint2(other, own_right) : make_uint2(own_left, other);
          }
        }
      }
    }
  }

  static __device__ __forceinline__ std::int64_t head_offset(const AttentionParams& p, std::int64_t head,
                                                             int rows) {
    return (head / p.heads * rows * p.heads + head % p.heads) * p.dim;
  }
};

}  // namespace softmoe::cuda
