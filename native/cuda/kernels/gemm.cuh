// The GEMM core: c [m, n] += a [m, k] b [k, n] for one block's tile, with float32 accumulators.
//
// Operands travel global -> shared by cp.async in a ring of stages (operand.cuh), shared -> registers by
// ldmatrix from swizzled panels (panel.cuh), and meet in mma.sync: bfloat16 m16n8k16, or tf32 m16n8k8 for
// float32. Float32 operands are split into two tf32 halves, x = hi + lo, and three products are summed (lo
// hi, hi lo, hi hi; the "3xTF32" scheme of Ootomo and Yokota, "Recovering single precision accuracy from
// Tensor Cores", 2022), which keeps about 21 of the 24 bits; with `exact` off only hi hi is taken.
//
// Every element of c is the sum over k in ascending steps of the instruction's depth, whatever the tile: a
// row's result does not depend on the tile's size or on the other rows.
#pragma once

#include "cuda/kernels/operand.cuh"
#include "cuda/kernels/tf32.cuh"

namespace softmoe::cuda {

// A block's tile: kM x kN by kWarpsM x kWarpsN warps, kDepthBytes of the depth a stage.
template <class T_, int kM_, int kN_, int kWarpsM_, int kWarpsN_, int kDepthBytes, int kStages_,
          Layout kLayoutA, Layout kLayoutB>
struct GemmTile {
  using T = T_;
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kStages = kStages_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kDepth = kDepthBytes / static_cast<int>(sizeof(T));
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kFragmentsM = kWarpM / 16, kFragmentsN = kWarpN / 8;
  static_assert(kM % (16 * kWarpsM) == 0 && kN % (16 * kWarpsN) == 0, "a warp multiplies 16 x 16 blocks");
  static_assert(kStages >= 2, "one stage is read while another is filled");

  using PanelA = Panel<T, kM, kDepth, kLayoutA>;
  using PanelB = Panel<T, kN, kDepth, kLayoutB>;
  static constexpr int kStageBytes = PanelA::kBytes + PanelB::kBytes;

  // The tile of results in shared memory, which takes the place of the stages. The padding keeps the eight
  // rows that a warp writes at once in different banks.
  static constexpr int kResultPitch = kN + 8;
  static constexpr int kResultBytes = kM * kResultPitch * 4;
  static constexpr int kSharedBytes =
      kStages * kStageBytes > kResultBytes ? kStages* kStageBytes : kResultBytes;

  using Accumulators = float[kFragmentsM][kFragmentsN][4];

  static __device__ __forceinline__ void clear(Accumulators& c) {
#pragma unroll
    for (int i = 0; i < kFragmentsM; ++i)
#pragma unroll
      for (int j = 0; j < kFragmentsN; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) c[i][j][e] = 0;
  }

  // Adds the products of `tiles` slices of the depth. `each` is called with the panels of every slice once
  // they have arrived. All threads of the block take part; shared memory is free for other use afterwards.
  template <class A, class B, class Each>
  static __device__ __forceinline__ void multiply(Accumulators& c, A& a, B& b, int tiles, char* shared,
                                                  bool exact, Each each) {
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < tiles) {
        a.fetch(stage(shared, s), s);
        b.fetch(stage(shared, s) + PanelA::kBytes, s);
        a.store(stage(shared, s), s);
      }
      ptx::copy_async_commit();
    }
    for (int tile = 0; tile < tiles; ++tile) {
      ptx::copy_async_wait<kStages - 2>();
      __syncthreads();
      const int next = tile + kStages - 1;
      char* free_stage = stage(shared, next % kStages);
      if (next < tiles) {
        a.fetch(free_stage, next);
        b.fetch(free_stage + PanelA::kBytes, next);
      }
      ptx::copy_async_commit();
      const char* ready = stage(shared, tile % kStages);
      each(ready, ready + PanelA::kBytes, tile);
      multiply_stage(c, ready, exact);
      if (next < tiles) a.store(free_stage, next);
    }
    ptx::copy_async_wait<0>();
    __syncthreads();
  }

  template <class A, class B>
  static __device__ __forceinline__ void multiply(Accumulators& c, A& a, B& b, int tiles, char* shared,
                                                  bool exact) {
    multiply(c, a, b, tiles, shared, exact, [](const char*, const char*, int) {});
  }

  // Puts the results into shared memory, [kM][kResultPitch]; all threads may read them afterwards.
  static __device__ __forceinline__ void to_shared(const Accumulators& c, float* result) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = warp / kWarpsN * kWarpM + lane / 4, column = warp % kWarpsN * kWarpN + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
      for (int j = 0; j < kFragmentsN; ++j) {
        float* upper = result + (row + i * 16) * kResultPitch + column + j * 8;
        *reinterpret_cast<float2*>(upper) = make_float2(c[i][j][0], c[i][j][1]);
        *reinterpret_cast<float2*>(upper + 8 * kResultPitch) = make_float2(c[i][j][2], c[i][j][3]);
      }
    }
    __syncthreads();
  }

  // Calls store(row, column, four values) for all results, neighbouring threads with neighbouring columns.
  template <class Store>
  static __device__ __forceinline__ void for_each_four(const float* result, Store store) {
    constexpr int kFours = kN / 4;
#pragma unroll 1
    for (int q = threadIdx.x; q < kM * kFours; q += kThreads) {
      const int row = q / kFours, column = q % kFours * 4;
      store(row, column, *reinterpret_cast<const float4*>(result + row * kResultPitch + column));
    }
  }

 private:
  static __device__ __forceinline__ char* stage(char* shared, int index) {
    return shared + index * kStageBytes;
  }

  static __device__ __forceinline__ void multiply_stage(Accumulators& c, const char* panels, bool exact) {
    const int warp = threadIdx.x / 32;
    const int m = warp / kWarpsN * kWarpM, n = warp % kWarpsN * kWarpN;
    const char* panel_a = panels;
    const char* panel_b = panels + PanelA::kBytes;
    // The float32 body is long (three products an element pair): unrolled further it runs out of registers.
#pragma unroll(sizeof(T) == 4 ? 1 : kDepthBytes / 32)
    for (int step = 0; step < kDepthBytes / 32; ++step) {
      std::uint32_t a[kFragmentsM][4];
#pragma unroll
      for (int i = 0; i < kFragmentsM; ++i) PanelA::load_a(a[i], panel_a, m + i * 16, step);
      if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int j = 0; j < kFragmentsN; j += 2) {
          std::uint32_t b[4];
          PanelB::load_b(b, panel_b, n + j * 8, step);
#pragma unroll
          for (int i = 0; i < kFragmentsM; ++i) {
            ptx::mma_bfloat16(c[i][j], a[i], b[0], b[1]);
            ptx::mma_bfloat16(c[i][j + 1], a[i], b[2], b[3]);
          }
        }
      } else {
        std::uint32_t a_rest[kFragmentsM][4];
#pragma unroll
        for (int i = 0; i < kFragmentsM; ++i) split_tf32(a[i], a_rest[i]);
#pragma unroll
        for (int j = 0; j < kFragmentsN; j += 2) {
          std::uint32_t b[4], b_rest[4];
          PanelB::load_b(b, panel_b, n + j * 8, step);
          split_tf32(b, b_rest);
          if (exact) {
#pragma unroll
            for (int i = 0; i < kFragmentsM; ++i) {
              ptx::mma_tf32(c[i][j], a_rest[i], b[0], b[1]);
              ptx::mma_tf32(c[i][j + 1], a_rest[i], b[2], b[3]);
              ptx::mma_tf32(c[i][j], a[i], b_rest[0], b_rest[1]);
              ptx::mma_tf32(c[i][j + 1], a[i], b_rest[2], b_rest[3]);
            }
          }
#pragma unroll
          for (int i = 0; i < kFragmentsM; ++i) {
            ptx::mma_tf32(c[i][j], a[i], b[0], b[1]);
            ptx::mma_tf32(c[i][j + 1], a[i], b[2], b[3]);
          }
        }
      }
    }
  }
};

}  // namespace softmoe::cuda
