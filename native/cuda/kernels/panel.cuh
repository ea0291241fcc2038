// A slice of a GEMM operand in shared memory, and how warps read fragments of it without bank conflicts.
//
// The panel is a matrix of 16-byte chunks. Depth contiguous: one row an outer index (m or n), columns along
// k. Depth strided: one row a depth index, columns along m or n. Within a row the chunks are permuted by XOR
// with a function of the row, so that the eight 16-byte rows of an ldmatrix matrix lie in different banks, as
// do the 32 words that a warp reads when it collects a tf32 fragment from a depth-strided panel (ldmatrix
// transposes 16-bit elements only).
#pragma once

#include <cstdint>

#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/ptx.cuh"

namespace softmoe::cuda {

enum class Layout { kDepthContiguous, kDepthStrided };

template <class T, int kOuter_, int kDepth_, Layout kLayout_>
struct Panel {
  static constexpr int kOuter = kOuter_, kDepth = kDepth_;
  static constexpr Layout kLayout = kLayout_;
  static constexpr bool kDepthContiguous = kLayout == Layout::kDepthContiguous;
  static constexpr int kRows = kDepthContiguous ? kOuter : kDepth;
  static constexpr int kColumns = kDepthContiguous ? kDepth : kOuter;
  static constexpr int kChunkElements = 16 / static_cast<int>(sizeof(T));
  static constexpr int kChunks = kColumns / kChunkElements;  // in a row
  static constexpr int kBytes = kRows * kChunks * 16;
  static constexpr bool kWordAccess = sizeof(T) == 4 && !kDepthContiguous;
  static_assert((kChunks & (kChunks - 1)) == 0 && kChunks >= 2, "the swizzle permutes a power of two");
  static_assert(!kWordAccess || kChunks >= 8, "four rows of a word access need 128-byte rows");

  // Byte offset of a chunk.
  static __device__ __forceinline__ int offset(int row, int chunk) {
    if constexpr (kWordAccess) {
      return (row * kChunks + (chunk ^ (2 * (row & 3)))) * 16;
    } else {
      constexpr int kRowsOfLine = kChunks >= 8 ? 1 : 8 / kChunks;  // rows in 128 bytes
      constexpr int kMask = (kChunks >= 8 ? 8 : kChunks) - 1;
      return (row * kChunks + (chunk ^ (row / kRowsOfLine & kMask))) * 16;
    }
  }

  static __device__ __forceinline__ T element(const char* panel, int row, int column) {
    const char* chunk = panel + offset(row, column / kChunkElements);
    return reinterpret_cast<const T*>(chunk)[column % kChunkElements];
  }

  // Fragment of 16 rows of a from `m`, 32 bytes of the depth from step * 32.
  static __device__ __forceinline__ void load_a(std::uint32_t (&r)[4], const char* panel, int m, int step) {
    const int lane = threadIdx.x % 32;
    if constexpr (kDepthContiguous) {
      ptx::load_matrices(r, ptx::shared_address(panel) + offset(m + lane % 16, step * 2 + lane / 16));
    } else if constexpr (!kWordAccess) {
      const int row = step * 16 + lane % 8 + lane / 16 * 8, chunk = m / 8 + lane / 8 % 2;
      ptx::load_matrices_transposed(r, ptx::shared_address(panel) + offset(row, chunk));
    } else {
      const int row = step * 8 + lane % 4, column = m + lane / 4;
      r[0] = word(panel, row, column);
      r[1] = word(panel, row, column + 8);
      r[2] = word(panel, row + 4, column);
      r[3] = word(panel, row + 4, column + 8);
    }
  }

  // Two fragments of 8 columns of b from `n`: r[0], r[1] for the first, r[2], r[3] for the second.
  static __device__ __forceinline__ void load_b(std::uint32_t (&r)[4], const char* panel, int n, int step) {
    const int lane = threadIdx.x % 32;
    if constexpr (kDepthContiguous) {
      const int row = n + lane % 8 + lane / 16 * 8, chunk = step * 2 + lane / 8 % 2;
      ptx::load_matrices(r, ptx::shared_address(panel) + offset(row, chunk));
    } else if constexpr (!kWordAccess) {
      const int row = step * 16 + lane % 16, chunk = n / 8 + lane / 16;
      ptx::load_matrices_transposed(r, ptx::shared_address(panel) + offset(row, chunk));
    } else {
      const int row = step * 8 + lane % 4, column = n + lane / 4;
      r[0] = word(panel, row, column);
      r[1] = word(panel, row + 4, column);
      r[2] = word(panel, row, column + 8);
      r[3] = word(panel, row + 4, column + 8);
    }
  }

 private:
  static __device__ __forceinline__ std::uint32_t word(const char* panel, int row, int column) {
    return *reinterpret_cast<const std::uint32_t*>(panel + offset(row, column / 4) + column % 4 * 4);
  }
};

}  // namespace softmoe::cuda
