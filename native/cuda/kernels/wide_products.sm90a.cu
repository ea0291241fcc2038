// Row products (row_product.cuh) for many rows a group, by the instructions of compute capability 9.0.
// UNVERIFIED ON HARDWARE: run on the emulated driver only, hence off unless SOFTMOE_CUDA_WGMMA=1.
//
// y[r] = epilogue(a[r] b[group of r]) in bfloat16 with float32 accumulators. A block makes 128 rows x 128
// columns. One warpgroup copies slices of both operands into a ring of four stages; two, of 64 rows each,
// multiply them by wgmma. Each stage has two mbarriers: `full`, on which the bytes arrive, and `empty`, on
// which the eight multiplying warps arrive when their products no longer read it. One slice's products stay
// under way while the next slice's are issued.
//
// b comes by TMA, and so does a where groups are of equal size: one thread issues the copies, and what lies
// outside a group is filled with zeros, so ragged edges need no care before the epilogue, which is that of
// the other row products. Rows of ragged groups, or gathered ones, are copied 16 bytes at a time by all
// threads of the copying warpgroup into the same swizzled layout, zeros below the last row of the group: no
// row of another group is read. A block of a ragged product takes its rows from a list of tiles, each within
// one group, and the epilogue writes no row below the group's last.
//
// Bytes and FLOP as in row_product.cuh: with at most 128 rows a group each weight is read once.
#include "cuda/kernels/row_product.cuh"
#include "cuda/kernels/wide_ring.cuh"

namespace softmoe::cuda {

namespace {

template <bool kTransposedB>
__device__ __forceinline__ void copy_slice_of_b(const WideRowProduct& p, const Ring& ring, int slice,
                                                int column, int group) {
  const int depth = slice * kWideDepth;
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

// One thread: keeps the ring filled.
template <bool kTransposedB>
__device__ __forceinline__ void copy_slices(const WideRowProduct& p, const Ring& ring, int slices, int row,
                                            int column, int group) {
  for (int slice = 0; slice < slices; ++slice) {
    ptx::barrier_wait(ring.empty(slice), Ring::turn(slice) ^ 1);
    ptx::barrier_arrive_expecting(ring.full(slice), kStageBytes);
    ptx::copy_tile(ring.a(slice), &p.a, slice * kWideDepth, row, group, ring.full(slice));
    copy_slice_of_b<kTransposedB>(p, ring, slice, column, group);
  }
}

// A warpgroup: keeps the ring filled with rows of a that TMA cannot take. A thread copies one chunk of 16
// bytes in eight rows.
template <bool kTransposedB>
__device__ __forceinline__ void copy_listed_slices(const WideRowProduct& p, const Ring& ring, int slices,
                                                   const RowTile& rows, int column) {
  constexpr int kChunks = 8, kRowsOfThread = kWideRows * kChunks / kCopyingThreads;
  const int thread = static_cast<int>(threadIdx.x) - kMultiplyingThreads;
  const int chunk = thread % kChunks, first_row = thread / kChunks;
  const auto* a = static_cast<const bfloat16*>(p.product.a) + chunk * 8;
  const GatheredRow source{p.product.gather};
  const bfloat16* row_of_a[kRowsOfThread];
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    const int row = rows.begin + first_row + i * (kWideRows / kRowsOfThread);
    row_of_a[i] = row < rows.end ? a + static_cast<std::int64_t>(source(row)) * p.product.depth : nullptr;
  }
  fill_by_threads(ring, slices, [&](int slice) {
    if (thread == 0) {
      ptx::barrier_arrive_expecting(ring.full(slice), kWidePanelBytes);
      copy_slice_of_b<kTransposedB>(p, ring, slice, column, rows.group);
    }
    const int depth = slice * kWideDepth;
    const int bytes = 2 * max(0, min(p.product.depth - depth - chunk * 8, 8));
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      const int row = first_row + i * (kWideRows / kRowsOfThread);
      const std::uint32_t at = ring.a(slice) + row * 128 + (chunk ^ row % 8) * 16;
      const bool is_read = row_of_a[i] && bytes > 0;
      ptx::copy_async_16(at, is_read ? row_of_a[i] + depth : p.product.a, is_read ? bytes : 0);
    }
  });
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
      ptx::multiply_m64n128k16<false, !kTransposedB>(c, left, right, slice + step > 0);
    }
    ptx::products_commit();
    ptx::products_wait<1>();
    if (slice > 0 && arrives) ptx::barrier_arrive(ring.empty(slice - 1));
  }
  ptx::products_wait<0>();
}

template <bool kTransposedB, bool kListed>
__device__ __forceinline__ void wide_row_product(const WideRowProduct& p) {
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t base = ptx::shared_address(shared);
  const Ring ring{base, base + kWideStages * kStageBytes};

  int index = blockIdx.x;
  const int row_tile = index % p.product.row_tiles;
  index /= p.product.row_tiles;
  const int column = index % p.product.column_tiles * kWideColumns;
  RowTile rows;
  if (kListed && p.product.tiles) {
    rows = p.product.tiles[row_tile];
    if (rows.group < 0) return;
  } else {
    rows.group = index / p.product.column_tiles;
    rows.begin = rows.group * p.product.rows_per_group + row_tile * kWideRows;
    rows.end = min(rows.begin + kWideRows, (rows.group + 1) * p.product.rows_per_group);
  }
  const int slices = (p.product.depth + kWideDepth - 1) / kWideDepth;

  ring.init(kListed ? 1 + kCopyingThreads : 1);
  if (threadIdx.x >= kMultiplyingThreads) {
    if constexpr (kListed) {
      copy_listed_slices<kTransposedB>(p, ring, slices, rows, column);
    } else if (threadIdx.x == kMultiplyingThreads) {
      copy_slices<kTransposedB>(p, ring, slices, row_tile * kWideRows, column, rows.group);
    }
    return;
  }

  float c[64];
#pragma unroll
  for (float& element : c) element = 0;
  multiply_slices<kTransposedB>(c, ring, slices, static_cast<int>(threadIdx.x) / 128);

  float* result = reinterpret_cast<float*>(shared);
  store_accumulators(c, result);

  // A thread meets the same four columns in every row.
  const int four = static_cast<int>(threadIdx.x) % (kWideColumns / 4) * 4;
  if (column + four >= p.product.columns) return;
  float4 bias = make_float4(0, 0, 0, 0);
  if (p.product.bias) {
    bias = load4_partial(
        p.product.bias + static_cast<std::size_t>(rows.group) * p.product.columns + column + four,
        p.product.columns - column - four, p.product.y_aligned);
  }
  for (int row = static_cast<int>(threadIdx.x) / (kWideColumns / 4); rows.begin + row < rows.end;
       row += kMultiplyingThreads / (kWideColumns / 4)) {
    const float4 v = *reinterpret_cast<const float4*>(result + row * kResultPitch + four);
    finish_row_product<bfloat16>(p.product, bias, rows.begin + row, column + four, v);
  }
}

}  // namespace

#define SOFTMOE_WIDE_ROW_PRODUCT(name, transposed, listed)      \
  extern "C" __global__ void __launch_bounds__(kWideThreads, 1) \
      name(const __grid_constant__ WideRowProduct params) {     \
    wide_row_product<transposed, listed>(params);               \
  }

SOFTMOE_WIDE_ROW_PRODUCT(wide_row_product_nn, false, false)
SOFTMOE_WIDE_ROW_PRODUCT(wide_row_product_nt, true, false)
SOFTMOE_WIDE_ROW_PRODUCT(wide_listed_row_product_nn, false, true)
SOFTMOE_WIDE_ROW_PRODUCT(wide_listed_row_product_nt, true, true)

}  // namespace softmoe::cuda
