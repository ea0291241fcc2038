// What the products of compute capability 9.0 share: two warpgroups multiply what a third copies into a ring
// of stages, each with two mbarriers: `full`, on which the bytes arrive, and `empty`, on which the
// multiplying warps arrive when their products no longer read it.
#pragma once

#include "cuda/kernels/ptx_sm90a.cuh"
#include "cuda/kernels/wide_products_params.h"

namespace softmoe::cuda {

constexpr int kMultiplyingThreads = 256, kMultiplyingWarps = 8, kCopyingThreads = 128;
static_assert(kMultiplyingThreads + kCopyingThreads == kWideThreads);
constexpr int kStageBytes = 2 * kWidePanelBytes;
// Eight spans of 128 bytes: the unit in which the swizzle repeats.
constexpr int kGroupBytes = 1024;
// The results in shared memory, in place of the stages; padded so that the rows of a warp lie in other banks.
constexpr int kResultPitch = kWideColumns + 8;
static_assert(kWideRows * kResultPitch * 4 <= kWideStages * kStageBytes);

struct Ring {
  std::uint32_t stages, barriers;

  __device__ __forceinline__ std::uint32_t a(int slice) const {
    return stages + slice % kWideStages * kStageBytes;
  }
  __device__ __forceinline__ std::uint32_t b(int slice) const { return a(slice) + kWidePanelBytes; }
  __device__ __forceinline__ std::uint32_t full(int slice) const {
    return barriers + slice % kWideStages * 16;
  }
  __device__ __forceinline__ std::uint32_t empty(int slice) const { return full(slice) + 8; }
  // How often the slice's stage was used before, modulo 2.
  static __device__ __forceinline__ int turn(int slice) { return slice / kWideStages % 2; }

  // By all threads of the block, once. `filling`: threads that arrive at `full`.
  __device__ __forceinline__ void init(int filling) const {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kWideStages; ++stage) {
        ptx::barrier_init(full(stage), filling);
        ptx::barrier_init(empty(stage), kMultiplyingWarps);
      }
      ptx::fence_barrier_init();
    }
    __syncthreads();
  }
};

// A warpgroup of copying threads: keeps the ring filled with what TMA cannot take. start(slice) starts this
// thread's copies of 16 bytes; its slices arrive two behind those that it starts.
template <class Start>
__device__ __forceinline__ void fill_by_threads(const Ring& ring, int slices, Start start) {
  constexpr int kBehind = 2;
  static_assert(kBehind < kWideStages - 1, "a stage is read while others are filled");
  for (int slice = 0; slice < slices; ++slice) {
    ptx::barrier_wait(ring.empty(slice), Ring::turn(slice) ^ 1);
    start(slice);
    ptx::copy_async_commit();
    if (slice < kBehind) continue;
    ptx::copy_async_wait<kBehind>();
    ptx::fence_written_tiles();
    ptx::barrier_arrive(ring.full(slice - kBehind));
  }
  ptx::copy_async_wait<0>();
  ptx::fence_written_tiles();
  for (int slice = max(0, slices - kBehind); slice < slices; ++slice) ptx::barrier_arrive(ring.full(slice));
}

// The results of both warpgroups to shared memory, in place of the stages: result [128][kResultPitch].
__device__ __forceinline__ void store_accumulators(const float (&c)[64], float* result) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // Both warpgroups are done with the stages.
  ptx::barrier_sync<1, kMultiplyingThreads>();
  const int row_of_thread = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < 64; i += 2) {
    const int row = row_of_thread + i / 2 % 2 * 8, at = i / 4 * 8 + lane % 4 * 2;
    *reinterpret_cast<float2*>(result + row * kResultPitch + at) = make_float2(c[i], c[i + 1]);
  }
  ptx::barrier_sync<1, kMultiplyingThreads>();
}

}  // namespace softmoe::cuda
