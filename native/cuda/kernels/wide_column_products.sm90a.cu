// Column products (products_tn.cu) for groups of many rows, by the instructions of compute capability 9.0.
// UNVERIFIED ON HARDWARE: run on the emulated driver only, hence off unless SOFTMOE_CUDA_WGMMA=1.
//
// y[g] = alpha * a[g]^T b[g] (+ y) over the rows of each group, or of one split of them, and the column sums
// of b. A block makes 128 x 128 results as in wide_products.sm90a.cu; both operands come by TMA in slices of
// 64 rows, zeros beyond the group, and both are read by wgmma with the summed dimension across the spans.
//
// Bytes: rows * (m * columns of blocks + n * rows of blocks) + groups * m * n, each times the element's size.
#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/operand.cuh"
#include "cuda/kernels/wide_ring.cuh"

namespace softmoe::cuda {

namespace {

constexpr int kSpanBytes = kWideDepth * kWideSpan * 2;  // 64 columns of all rows of a slice

// One thread: keeps the ring filled.
__device__ __forceinline__ void copy_slices(const WideColumnProduct& p, const Ring& ring, int slices, int row,
                                            int m, int n, int group) {
  for (int slice = 0; slice < slices; ++slice, row += kWideDepth) {
    ptx::barrier_wait(ring.empty(slice), Ring::turn(slice) ^ 1);
    ptx::barrier_arrive_expecting(ring.full(slice), kStageBytes);
#pragma unroll
    for (int span = 0; span < 2; ++span) {
      const int column = span * kWideSpan, at = span * kSpanBytes;
      ptx::copy_tile(ring.a(slice) + at, &p.a, m + column, row, group, ring.full(slice));
      ptx::copy_tile(ring.b(slice) + at, &p.b, n + column, row, group, ring.full(slice));
    }
  }
}

// A warpgroup: keeps the ring filled with rows [begin, end) of b and the rows of a that belong to them. A
// thread copies one chunk of 16 bytes of both in eight rows.
__device__ __forceinline__ void copy_listed_slices(const ColumnProduct& p, const Ring& ring, int slices,
                                                   int begin, int end, int m, int n) {
  constexpr int kChunks = kWideColumns / 8, kRowsAtOnce = kCopyingThreads / kChunks;
  static_assert(kRowsAtOnce == 8, "a thread's rows have one place in the swizzle");
  const int thread = static_cast<int>(threadIdx.x) - kMultiplyingThreads;
  const int chunk = thread % kChunks, first_row = thread / kChunks;
  const int place = chunk / 8 * kSpanBytes + first_row * 128 + (chunk % 8 ^ first_row) * 16;
  const auto* a = static_cast<const bfloat16*>(p.a) + m + chunk * 8;
  const auto* b = static_cast<const bfloat16*>(p.b) + n + chunk * 8;
  const int a_bytes = 2 * max(0, min(p.m - m - chunk * 8, 8)),
            b_bytes = 2 * max(0, min(p.n - n - chunk * 8, 8));
  const GatheredRow source{p.gather};
  fill_by_threads(ring, slices, [&](int slice) {
#pragma unroll
    for (int i = 0; i < kWideDepth / kRowsAtOnce; ++i) {
      const int row = begin + slice * kWideDepth + i * kRowsAtOnce + first_row;
      const int at = place + i * kRowsAtOnce * 128;
      const bool reads_a = row < end && a_bytes > 0, reads_b = row < end && b_bytes > 0;
      ptx::copy_async_16(ring.a(slice) + at, reads_a ? a + static_cast<std::int64_t>(source(row)) * p.m : p.a,
                         reads_a ? a_bytes : 0);
      ptx::copy_async_16(ring.b(slice) + at, reads_b ? b + static_cast<std::int64_t>(row) * p.n : p.b,
                         reads_b ? b_bytes : 0);
    }
  });
}

// Column `threadIdx.x` of b in a slice, rows ascending.
__device__ __forceinline__ float column_sum(const char* b) {
  const int column = static_cast<int>(threadIdx.x) % kWideSpan;
  const char* span = b + static_cast<int>(threadIdx.x) / kWideSpan * kSpanBytes;
  float sum = 0;
#pragma unroll 8
  for (int row = 0; row < kWideDepth; ++row) {
    const char* chunk = span + row * 128 + (column / 8 ^ row % 8) * 16;
    sum += to_float(reinterpret_cast<const bfloat16*>(chunk)[column % 8]);
  }
  return sum;
}

template <bool kListed>
__device__ __forceinline__ void column_product(const WideColumnProduct& params) {
  extern __shared__ __align__(1024) char shared[];
  const ColumnProduct& p = params.product;
  const std::uint32_t base = ptx::shared_address(shared);
  const Ring ring{base, base + kWideStages * kStageBytes};

  int index = blockIdx.x;
  const int m_tile = index % p.m_tiles;
  index /= p.m_tiles;
  const int n_begin = index % p.n_tiles * kWideColumns, m_begin = m_tile * kWideRows;
  index /= p.n_tiles;
  const int group = index % p.groups, split = index / p.groups;
  const int group_begin = kListed && p.offsets ? p.offsets[group] : group * p.rows_per_group;
  const int group_end = kListed && p.offsets ? p.offsets[group + 1] : group_begin + p.rows_per_group;
  const int begin = min(group_begin + split * p.rows_per_split, group_end);
  const int end = split == p.splits - 1 ? group_end : min(begin + p.rows_per_split, group_end);
  const int slices = (end - begin + kWideDepth - 1) / kWideDepth;

  ring.init(kListed ? kCopyingThreads : 1);
  if (threadIdx.x >= kMultiplyingThreads) {
    if constexpr (kListed) {
      copy_listed_slices(p, ring, slices, begin, end, m_begin, n_begin);
    } else if (threadIdx.x == kMultiplyingThreads) {
      copy_slices(params, ring, slices, begin - group_begin, m_begin, n_begin, group);
    }
    return;
  }

  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const bool arrives = threadIdx.x % 32 == 0;
  const bool sums_columns = p.column_sums && m_tile == 0 && warpgroup == 0;
  float c[64], sum = 0;
#pragma unroll
  for (float& element : c) element = 0;
  for (int slice = 0; slice < slices; ++slice) {
    ptx::barrier_wait(ring.full(slice), Ring::turn(slice));
    ptx::products_fence();
    const std::uint32_t a = ring.a(slice) + warpgroup * kSpanBytes, b = ring.b(slice);
#pragma unroll
    for (int step = 0; step < kWideDepth / 16; ++step) {
      ptx::multiply_m64n128k16<true, true>(
          c, ptx::matrix_descriptor(a + step * 2 * kGroupBytes, kSpanBytes, kGroupBytes),
          ptx::matrix_descriptor(b + step * 2 * kGroupBytes, kSpanBytes, kGroupBytes), slice + step > 0);
    }
    ptx::products_commit();
    if (sums_columns) sum += column_sum(shared + (b - base));
    ptx::products_wait<1>();
    __syncwarp();
    if (slice > 0 && arrives) ptx::barrier_arrive(ring.empty(slice - 1));
  }
  ptx::products_wait<0>();

  const std::size_t part = static_cast<std::size_t>(split) * p.groups + group;
  if (sums_columns && n_begin + static_cast<int>(threadIdx.x) < p.n) {
    p.column_sums[part * p.n + n_begin + threadIdx.x] = sum;
  }
  float* result = reinterpret_cast<float*>(shared);
  store_accumulators(c, result);
  const int four = static_cast<int>(threadIdx.x) % (kWideColumns / 4) * 4, n = n_begin + four;
  if (!p.y || n >= p.n) return;
  const int count = min(p.n - n, 4);
  constexpr int kRowsAtOnce = kMultiplyingThreads / (kWideColumns / 4);
  for (int row = static_cast<int>(threadIdx.x) / (kWideColumns / 4); row < min(kWideRows, p.m - m_begin);
       row += kRowsAtOnce) {
    float4 v = *reinterpret_cast<const float4*>(result + row * kResultPitch + four);
    v = make_float4(p.alpha * v.x, p.alpha * v.y, p.alpha * v.z, p.alpha * v.w);
    const std::size_t at = (part * p.m + m_begin + row) * p.n + n;
    store4_output(p, at, v, count);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kWideThreads, 1)
    wide_column_product(const __grid_constant__ WideColumnProduct params) {
  column_product<false>(params);
}
extern "C" __global__ void __launch_bounds__(kWideThreads, 1)
    wide_listed_column_product(const __grid_constant__ WideColumnProduct params) {
  column_product<true>(params);
}

}  // namespace softmoe::cuda
