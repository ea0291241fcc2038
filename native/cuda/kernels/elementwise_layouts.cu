// Kernels that move, repeat or sum elements: strided copies, transposition, patches, broadcast and sum over
// the middle axis. Bound by memory.
//
// A sum's order depends on the summed extent alone: blocks of kBlockRows rows in ascending order, then the
// blocks' sums in ascending order. Rows of single elements are contiguous: there a warp sums a block of
// kLineBlock elements, lane by lane.
#include "cuda/kernels/any_floats.cuh"
#include "cuda/kernels/elementwise_params.h"
#include "cuda/kernels/reduce.cuh"

namespace softmoe::cuda {

constexpr int kThreads = 256;
constexpr int kBlockRows = 128;
constexpr int kLineBlock = 4096;
constexpr int kBroadcastRows = 16;
constexpr int kTile = 32;  // a tile of a transposition; one row is one access of a warp
constexpr int kTileStep = kThreads / kTile;

#define SOFTMOE_KERNEL(name, Params) \
  extern "C" __global__ void __launch_bounds__(kThreads) name(const __grid_constant__ Params p)

__device__ __forceinline__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

template <class Word>
__device__ __forceinline__ void strided_copy(const StridedCopyParams& p) {
  const std::int64_t i = thread_index();
  if (i >= p.outer * p.inner) return;
  const Quotient row = divide(i, p.inner);
  static_cast<Word*>(p.y)[row.value * p.y_stride + row.rest] =
      static_cast<const Word*>(p.x)[row.value * p.x_stride + row.rest];
}
SOFTMOE_KERNEL(strided_copy_2, StridedCopyParams) { strided_copy<std::uint16_t>(p); }
SOFTMOE_KERNEL(strided_copy_4, StridedCopyParams) { strided_copy<std::uint32_t>(p); }
SOFTMOE_KERNEL(strided_copy_16, StridedCopyParams) { strided_copy<uint4>(p); }

SOFTMOE_KERNEL(broadcast, BroadcastParams) {
  // A thread writes four elements of x into a block of the middle axis.
  if (p.blocks > 0) {
    const std::int64_t fours = p.inner / 4, index = thread_index();
    if (index >= p.outer * p.blocks * fours) return;
    const Quotient by_four = divide(index, fours), by_block = divide(by_four.value, p.blocks);
    const std::int64_t outer = by_block.value, i = by_four.rest * 4;
    const std::int64_t begin = by_block.rest * kBroadcastRows, end = min(begin + kBroadcastRows, p.middle);
    const float4 v = map4(load4(p.x, outer * p.inner + i, 4), [&](float x) { return p.scale * x; });
    for (std::int64_t m = begin; m < end; ++m) store4(p.y, (outer * p.middle + m) * p.inner + i, v, 4);
    return;
  }
  by_fours(p.outer * p.middle * p.inner, [&](std::int64_t i, int n) {
    const auto source = [&](std::int64_t at) {
      const Quotient row = divide(at, p.inner);
      return divide(row.value, p.middle).value * p.inner + row.rest;
    };
    float4 v = make_float4(load(p.x, source(i)), 0, 0, 0);
    if (n > 1) v.y = load(p.x, source(i + 1));
    if (n > 2) v.z = load(p.x, source(i + 2));
    if (n > 3) v.w = load(p.x, source(i + 3));
    store4(p.y, i, map4(v, [&](float x) { return p.scale * x; }), n);
  });
}

// One thread a column and block of rows.
SOFTMOE_KERNEL(sum_rows, SumBlocks) {
  const std::int64_t columns = p.outer * p.inner, tiles = (columns + kThreads - 1) / kThreads;
  const Quotient at = divide(blockIdx.x, tiles);
  const std::int64_t column = at.rest * kThreads + threadIdx.x;
  if (column >= columns) return;
  const Quotient where = divide(column, p.inner);
  const std::int64_t begin = at.value * kBlockRows, end = min(begin + kBlockRows, p.middle);
  float sum = 0;
#pragma unroll 4
  for (std::int64_t m = begin; m < end; ++m) {
    sum += load(p.x, (where.value * p.middle + m) * p.inner + where.rest);
  }
  if (p.partial) {
    p.partial[at.value * columns + column] = sum;
  } else {
    store(p.y, column, p.scale * sum);
  }
}

// inner = 1: one warp a block of a contiguous row.
SOFTMOE_KERNEL(sum_lines, SumBlocks) {
  const std::int64_t warp = thread_index() / kWarpSize;
  if (warp >= p.outer * p.blocks) return;
  const Quotient at = divide(warp, p.blocks);
  const std::int64_t begin = at.rest * kLineBlock, end = min(begin + kLineBlock, p.middle);
  float sum = 0;
#pragma unroll 4
  for (std::int64_t m = begin + threadIdx.x % kWarpSize; m < end; m += kWarpSize) {
    sum += load(p.x, at.value * p.middle + m);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarpSize != 0) return;
  if (p.partial) {
    p.partial[at.rest * p.outer + at.value] = sum;
  } else {
    store(p.y, at.value, p.scale * sum);
  }
}

SOFTMOE_KERNEL(sum_of_blocks, SumOfBlocks) {
  const std::int64_t i = thread_index();
  if (i >= p.count) return;
  float sum = 0;
#pragma unroll 4
  for (std::int64_t block = 0; block < p.blocks; ++block) sum += p.partial[block * p.count + i];
  store(p.y, i, p.scale * sum);
}

// A block turns one tile over by way of shared memory, whose rows are padded so that columns, too, lie in
// different banks.
template <class Word>
__device__ __forceinline__ void transpose(const TransposeParams& p) {
  __shared__ Word tile[kTile][kTile + 4 / sizeof(Word)];
  Quotient at = divide(blockIdx.x, p.column_tiles);
  const std::int64_t column = at.rest * kTile;
  at = divide(at.value, p.row_tiles);
  const std::int64_t row = at.rest * kTile, matrix = at.value * p.rows * p.columns;
  const int lane = threadIdx.x % kTile;
  for (int r = threadIdx.x / kTile; r < kTile; r += kTileStep) {
    if (row + r < p.rows && column + lane < p.columns) {
      tile[r][lane] = static_cast<const Word*>(p.x)[matrix + (row + r) * p.columns + column + lane];
    }
  }
  __syncthreads();
  for (int c = threadIdx.x / kTile; c < kTile; c += kTileStep) {
    if (column + c < p.columns && row + lane < p.rows) {
      static_cast<Word*>(p.y)[matrix + (column + c) * p.rows + row + lane] = tile[lane][c];
    }
  }
}
SOFTMOE_KERNEL(transpose_2, TransposeParams) { transpose<std::uint16_t>(p); }
SOFTMOE_KERNEL(transpose_4, TransposeParams) { transpose<std::uint32_t>(p); }

// Threads follow the patches' order. A patch's share of an image row, patch * channels elements, is
// contiguous on both sides.
SOFTMOE_KERNEL(patchify, PatchifyParams) {
  const std::int64_t index = thread_index();
  if (index >= p.count) return;
  const std::int64_t in_patches = index * p.unit, segment = p.patch * p.channels;
  Quotient at = divide(in_patches, segment);
  const std::int64_t within = at.rest;
  at = divide(at.value, p.patch);
  const std::int64_t y_in_patch = at.rest;
  at = divide(at.value, p.across);
  const std::int64_t column = at.rest;
  at = divide(at.value, p.down);
  const std::int64_t in_image =
      ((at.value * p.height + at.rest * p.patch + y_in_patch) * p.width + column * p.patch) * p.channels +
      within;
  const std::int64_t from = p.inverse ? in_patches : in_image, to = p.inverse ? in_image : in_patches;
  if (p.unit == 4) {
    store4(p.y, to, load4(p.x, from, 4), 4);
  } else {
    store(p.y, to, load(p.x, from));
  }
}

}  // namespace softmoe::cuda
