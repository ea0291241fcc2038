// Row products (row_product.cuh) for many rows a group, by the instructions of compute capability 9.0.
// UNVERIFIED ON HARDWARE: run on the emulated driver only, hence off unless SOFTMOE_CUDA_WGMMA=1.
//
// y[r] = epilogue(a[r] b[group of r]) in bfloat16 with float32 accumulators. A block makes 128 rows x 128
// columns. One warp copies slices of both operands by TMA into a ring of four stages; two warpgroups, of 64
// rows each, multiply them by wgmma. Each stage has two mbarriers: `full`, on which the bytes arrive, and
// `empty`, on which the eight multiplying warps arrive when their products no longer read it. One slice's
// products stay under way while the next slice's are issued. TMA fills what lies outside a group with zeros,
// so ragged edges need no care before the epilogue, which is that of the other row products.
//
// Bytes and FLOP as in row_product.cuh: with at most 128 rows a group each weight is read once.
#include "cuda/kernels/ptx_sm90a.cuh"
#include "cuda/kernels/row_product.cuh"
#include "cuda/kernels/wide_products_params.h"

namespace softmoe::cuda {

namespace {

constexpr int kMultiplyingThreads = 256, kMultiplyingWarps = 8;
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
};

// One thread: keeps the ring filled.
template <bool kTransposedB>
__device__ __forceinline__ void copy_slices(const WideRowProduct& p, const Ring& ring, int slices, int row,
                                            int column, int group) {
  for (int slice = 0; slice < slices; ++slice) {
    ptx::barrier_wait(ring.empty(slice), Ring::turn(slice) ^ 1);
    ptx::barrier_arrive_expecting(ring.full(slice), kStageBytes);
    const int depth = slice * kWideDepth;
    ptx::copy_tile(ring.a(slice), &p.a, depth, row, group, ring.full(slice));
    if constexpr (kTransposedB) {
      ptx::copy_tile(ring.b(slice), &p.b, depth, column, group, ring.full(slice));
    } else {
#pragma unroll
      for (int span = 0; span < kWideColumns / kWideSpan; ++span) {
        ptx::copy_tile(ring.b(slice) + span * kWideDepth * kWideSpan * 2, &p.b, column + span * kWideSpan,
                       depth, group, ring.full(slice));
      }
    }
  }
}

// A warpgroup: c += the products of its 64 rows.
template <bool kTransposedB>
__device__ __forceinline__ void multiply_slices(float (&c)[64], const Ring& ring, int slices, int warpgroup) {
  const bool arrives = threadIdx.x % 32 == 0;
  for (int slice = 0; slice < slices; ++slice) {
    ptx::barrier_wait(ring.full(slice), Ring::turn(slice));
    ptx::products_fence();
    const std::uint32_t a = ring.a(slice) + warpgroup * (kWidePanelBytes / 2), b = ring.b(slice);
#pragma unroll
    for (int step = 0; step < kWideDepth / 16; ++step) {
      const std::uint64_t left = ptx::matrix_descriptor(a + step * 32, 16, kGroupBytes);
      const std::uint64_t right =
          kTransposedB
              ? ptx::matrix_descriptor(b + step * 32, 16, kGroupBytes)
              : ptx::matrix_descriptor(b + step * 2 * kGroupBytes, kWideDepth * kWideSpan * 2, kGroupBytes);
      ptx::multiply_m64n128k16<!kTransposedB>(c, left, right, slice + step > 0);
    }
    ptx::products_commit();
    ptx::products_wait<1>();
    if (slice > 0 && arrives) ptx::barrier_arrive(ring.empty(slice - 1));
  }
  ptx::products_wait<0>();
}

template <bool kTransposedB>
__device__ __forceinline__ void wide_row_product(const WideRowProduct& p) {
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t base = ptx::shared_address(shared);
  const Ring ring{base, base + kWideStages * kStageBytes};

  int index = blockIdx.x;
  const int row_tile = index % p.product.row_tiles;
  index /= p.product.row_tiles;
  const int column = index % p.product.column_tiles * kWideColumns, group = index / p.product.column_tiles;
  const int first_row = row_tile * kWideRows;
  const int slices = (p.product.depth + kWideDepth - 1) / kWideDepth;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kWideStages; ++stage) {
      ptx::barrier_init(ring.full(stage), 1);
      ptx::barrier_init(ring.empty(stage), kMultiplyingWarps);
    }
    ptx::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= kMultiplyingThreads) {
    if (threadIdx.x == kMultiplyingThreads)
      copy_slices<kTransposedB>(p, ring, slices, first_row, column, group);
    return;
  }

  const int warpgroup = static_cast<int>(threadIdx.x) / 128, lane = static_cast<int>(threadIdx.x) % 32;
  float c[64];
#pragma unroll
  for (float& element : c) element = 0;
  multiply_slices<kTransposedB>(c, ring, slices, warpgroup);

  // Both warpgroups are done with the stages.
  ptx::barrier_sync<1, kMultiplyingThreads>();
  float* result = reinterpret_cast<float*>(shared);
  const int row_of_thread = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < 64; i += 2) {
    const int row = row_of_thread + i / 2 % 2 * 8, at = i / 4 * 8 + lane % 4 * 2;
    *reinterpret_cast<float2*>(result + row * kResultPitch + at) = make_float2(c[i], c[i + 1]);
  }
  ptx::barrier_sync<1, kMultiplyingThreads>();

  const int begin = group * p.product.rows_per_group + first_row;
  const int rows = min(kWideRows, p.product.rows_per_group - first_row);
  // A thread meets the same four columns in every row.
  const int four = static_cast<int>(threadIdx.x) % (kWideColumns / 4) * 4;
  if (column + four >= p.product.columns) return;
  float4 bias = make_float4(0, 0, 0, 0);
  if (p.product.bias) {
    bias = load4_partial(p.product.bias + static_cast<std::size_t>(group) * p.product.columns + column + four,
                         p.product.columns - column - four, p.product.y_aligned);
  }
  for (int row = static_cast<int>(threadIdx.x) / (kWideColumns / 4); row < rows;
       row += kMultiplyingThreads / (kWideColumns / 4)) {
    const float4 v = *reinterpret_cast<const float4*>(result + row * kResultPitch + four);
    finish_row_product<bfloat16>(p.product, bias, begin + row, column + four, v);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kWideThreads, 1)
    wide_row_product_nn(const __grid_constant__ WideRowProduct params) {
  wide_row_product<false>(params);
}
extern "C" __global__ void __launch_bounds__(kWideThreads, 1)
    wide_row_product_nt(const __grid_constant__ WideRowProduct params) {
  wide_row_product<true>(params);
}

}  // namespace softmoe::cuda
