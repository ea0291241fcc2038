// Sources of GEMM operands. A source fills panels: `fetch(panel, tile)` starts slice `tile` of the depth and
// `store(panel, tile)` ends it after the products of the current slice, for sources that compute.
#pragma once

#include "cuda/kernels/panel.cuh"

namespace softmoe::cuda {

// Row of the matrix in memory for a row of the product.
struct SameRow {
  __device__ __forceinline__ int operator()(int row) const { return row; }
};
struct GatheredRow {
  const std::int32_t* gather;  // null: the same row
  __device__ __forceinline__ int operator()(int row) const { return gather ? gather[row] : row; }
};

// The part of a matrix that a block multiplies: rows and columns are those of memory (before the row map).
// The outer range may reach past the end of the matrix by the tile's ragged edge: what is outside reads as
// zero.
struct OperandRange {
  int outer_begin, outer_end, depth_begin, depth_end;
};

// 16 bytes of a row from `column`, zeros from `column_end` on, one element at a time.
template <class T>
__device__ __forceinline__ uint4 load_unaligned(const T* row, int column, int column_end) {
  std::uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (sizeof(T) == 4) {
      words[w] = column + w < column_end ? __float_as_uint(row[column + w]) : 0;
    } else {
      const int c = column + 2 * w;
      const std::uint32_t low = c < column_end ? row[c].bits : 0,
                          high = c + 1 < column_end ? row[c + 1].bits : 0;
      words[w] = low | high << 16;
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Copies a matrix as it is, [rows][pitch] in memory. `aligned`: base and pitch are multiples of 16 bytes;
// otherwise elements are loaded one by one.
template <class T, class Panel, int kThreads, class RowMap>
class CopiedOperand {
 public:
  __device__ __forceinline__ CopiedOperand(const T* data, int pitch, const OperandRange& range, bool aligned,
                                           RowMap map)
      : data_(data), pitch_(pitch), range_(range), aligned_(aligned), map_(map) {
    if constexpr (Panel::kDepthContiguous) {
      // The rows stay the same over all slices.
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        row_offset_[i] = offset_of_row(range.outer_begin + (threadIdx.x + i * kThreads) / Panel::kChunks);
      }
    }
  }

  // `skipped`: elements between the matrix and the one of the same shape that is meant.
  __device__ __forceinline__ void fetch(char* panel, int tile, std::size_t skipped = 0) const {
    const T* data = data_ + skipped;
    const int depth = range_.depth_begin + tile * Panel::kDepth;
    if (!aligned_) {
      fetch_by_element(panel, data, depth);
      return;
    }
    const std::uint32_t address = ptx::shared_address(panel);
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int q = threadIdx.x + i * kThreads;
      if (kTotal % kThreads != 0 && q >= kTotal) break;
      const int panel_row = q / Panel::kChunks, chunk = q % Panel::kChunks;
      const int column = column_begin(depth) + chunk * Panel::kChunkElements;
      const int offset = Panel::kDepthContiguous ? row_offset_[i] : offset_of_row(depth + panel_row);
      const int elements = offset == kNoRow ? 0 : max(0, min(column_end() - column, Panel::kChunkElements));
      ptx::copy_async_16(address + Panel::offset(panel_row, chunk), elements ? data + offset + column : data,
                         elements * static_cast<int>(sizeof(T)));
    }
  }

  __device__ __forceinline__ void store(char*, int) const {}

 private:
  static constexpr int kTotal = Panel::kRows * Panel::kChunks;
  static constexpr int kPerThread = (kTotal + kThreads - 1) / kThreads;
  static constexpr int kNoRow = -1;

  __device__ __forceinline__ int column_begin(int depth) const {
    return Panel::kDepthContiguous ? depth : range_.outer_begin;
  }
  __device__ __forceinline__ int column_end() const {
    return Panel::kDepthContiguous ? range_.depth_end : range_.outer_end;
  }
  __device__ __forceinline__ int offset_of_row(int row) const {
    return row < (Panel::kDepthContiguous ? range_.outer_end : range_.depth_end) ? map_(row) * pitch_
                                                                                 : kNoRow;
  }

  // Kept short rather than fast: only matrices with odd extents come here.
  __device__ __forceinline__ void fetch_by_element(char* panel, const T* data, int depth) const {
#pragma unroll 1
    for (int q = threadIdx.x; q < kTotal; q += kThreads) {
      const int panel_row = q / Panel::kChunks, chunk = q % Panel::kChunks;
      const int column = column_begin(depth) + chunk * Panel::kChunkElements;
      const int offset = offset_of_row((Panel::kDepthContiguous ? range_.outer_begin : depth) + panel_row);
      *reinterpret_cast<uint4*>(panel + Panel::offset(panel_row, chunk)) =
          offset == kNoRow ? make_uint4(0, 0, 0, 0) : load_unaligned(data + offset, column, column_end());
    }
  }

  const T* data_;
  int pitch_;
  OperandRange range_;
  bool aligned_;
  RowMap map_;
  int row_offset_[Panel::kDepthContiguous ? kPerThread : 1];
};

}  // namespace softmoe::cuda
