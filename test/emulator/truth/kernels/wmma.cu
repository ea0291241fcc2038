// nvcuda::wmma of the toolkit: one warp computes D = A B + C for one tile.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;

template <int m, int n, int k, class Element, class LayoutA, class LayoutB>
__device__ void multiply(const Element* a, const Element* b, const float* c, float* d) {
  wmma::fragment<wmma::matrix_a, m, n, k, Element, LayoutA> left;
  wmma::fragment<wmma::matrix_b, m, n, k, Element, LayoutB> right;
  wmma::fragment<wmma::accumulator, m, n, k, float> sum;
  constexpr int stepA = std::is_same<LayoutA, wmma::row_major>::value ? k : m;
  constexpr int stepB = std::is_same<LayoutB, wmma::row_major>::value ? n : k;
  wmma::load_matrix_sync(left, a, stepA);
  wmma::load_matrix_sync(right, b, stepB);
  wmma::load_matrix_sync(sum, c, n, wmma::mem_row_major);
  wmma::mma_sync(sum, left, right, sum);
  wmma::store_matrix_sync(d, sum, n, wmma::mem_row_major);
}

extern "C" __global__ void bf16_16x16x16(const __nv_bfloat16* a, const __nv_bfloat16* b, const float* c,
                                         float* d) {
  multiply<16, 16, 16, __nv_bfloat16, wmma::row_major, wmma::col_major>(a, b, c, d);
}

extern "C" __global__ void bf16_32x8x16(const __nv_bfloat16* a, const __nv_bfloat16* b, const float* c,
                                        float* d) {
  multiply<32, 8, 16, __nv_bfloat16, wmma::col_major, wmma::row_major>(a, b, c, d);
}

extern "C" __global__ void f16_16x16x16(const __half* a, const __half* b, const float* c, float* d) {
  multiply<16, 16, 16, __half, wmma::row_major, wmma::row_major>(a, b, c, d);
}

extern "C" __global__ void f16_8x32x16(const __half* a, const __half* b, const float* c, float* d) {
  multiply<8, 32, 16, __half, wmma::row_major, wmma::col_major>(a, b, c, d);
}

// The operands are rounded to tf32 by the program, as the interface asks.
extern "C" __global__ void tf32_16x16x8(const float* a, const float* b, const float* c, float* d) {
  wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> left;
  wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::col_major> right;
  wmma::fragment<wmma::accumulator, 16, 16, 8, float> sum;
  wmma::load_matrix_sync(left, a, 8);
  wmma::load_matrix_sync(right, b, 8);
  for (int i = 0; i < left.num_elements; ++i) left.x[i] = wmma::__float_to_tf32(left.x[i]);
  for (int i = 0; i < right.num_elements; ++i) right.x[i] = wmma::__float_to_tf32(right.x[i]);
  wmma::load_matrix_sync(sum, c, 16, wmma::mem_row_major);
  wmma::mma_sync(sum, left, right, sum);
  wmma::store_matrix_sync(d, sum, 16, wmma::mem_row_major);
}
