// C = gelu(A B + bias) on bf16 with float32 sums: A [rows][depth], B [depth][columns], one matrix a
// blockIdx.z. A 128 × 128 tile a block of eight warps; three stages of cp.async, ldmatrix on swizzled shared
// memory, mma.sync.
#include <cuda_bf16.h>

#include <cstdint>

constexpr int tileRows = 128, tileColumns = 128, tileDepth = 32, stages = 3, threads = 256;
constexpr int bytesA = tileRows * tileDepth * 2, bytesB = tileDepth * tileColumns * 2;

__device__ void copyAsync(uint32_t target, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(source), "r"(bytes));
}

// Places of 16-byte chunks, turned so that the eight rows that ldmatrix reads fall into different banks.
__device__ uint32_t placeA(int row, int chunk) { return row * 64 + ((chunk ^ (row / 2 % 4)) * 16); }
__device__ uint32_t placeB(int row, int chunk) { return row * 256 + ((chunk ^ (row % 8)) * 16); }

__device__ float gelu(float x) { return 0.5f * x * (1.f + erff(x * 0.70710678f)); }

extern "C" __global__ __launch_bounds__(threads) void gemm_gelu(const __nv_bfloat16* __restrict__ A,
                                                                const __nv_bfloat16* __restrict__ B,
                                                                const float* __restrict__ bias,
                                                                __nv_bfloat16* __restrict__ C, int rows,
                                                                int columns, int depth) {
  extern __shared__ __align__(128) unsigned char tiles[];
  A += static_cast<size_t>(blockIdx.z) * rows * depth;
  B += static_cast<size_t>(blockIdx.z) * depth * columns;
  C += static_cast<size_t>(blockIdx.z) * rows * columns;
  bias += static_cast<size_t>(blockIdx.z) * columns;
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(tiles));
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, warpRow = warp % 2,
            warpColumn = warp / 2;
  const int firstRow = blockIdx.y * tileRows, firstColumn = blockIdx.x * tileColumns;
  const int steps = (depth + tileDepth - 1) / tileDepth;

  const auto load = [&](int step, int stage) {
    const uint32_t a = base + stage * (bytesA + bytesB), b = a + bytesA;
#pragma unroll
    for (int i = 0; i < tileRows * 4 / threads; ++i) {
      const int chunk = thread + i * threads, row = chunk / 4, part = chunk % 4;
      const int k = step * tileDepth + part * 8, m = firstRow + row;
      const bool inside = m < rows && k < depth;
      copyAsync(a + placeA(row, part), inside ? A + static_cast<size_t>(m) * depth + k : A, inside ? 16 : 0);
    }
#pragma unroll
    for (int i = 0; i < tileDepth * 16 / threads; ++i) {
      const int chunk = thread + i * threads, row = chunk / 16, part = chunk % 16;
      const int k = step * tileDepth + row, n = firstColumn + part * 8;
      const bool inside = k < depth && n < columns;
      copyAsync(b + placeB(row, part), inside ? B + static_cast<size_t>(k) * columns + n : B,
                inside ? 16 : 0);
    }
  };

  float sum[4][4][4] = {};
#pragma unroll
  for (int s = 0; s < stages - 1; ++s) {
    if (s < steps) load(s, s);
    asm volatile("cp.async.commit_group;\n");
  }
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(stages - 2));
    __syncthreads();
    if (step + stages - 1 < steps) load(step + stages - 1, (step + stages - 1) % stages);
    asm volatile("cp.async.commit_group;\n");
    const uint32_t a = base + step % stages * (bytesA + bytesB), b = a + bytesA;
#pragma unroll
    for (int k = 0; k < tileDepth / 16; ++k) {
      uint32_t left[4][4], right[4][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t place = a + placeA(warpRow * 64 + i * 16 + lane % 16, k * 2 + lane / 16);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(left[i][0]), "=r"(left[i][1]), "=r"(left[i][2]), "=r"(left[i][3])
                     : "r"(place));
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint32_t place = b + placeB(k * 16 + lane % 16, warpColumn * 4 + j * 2 + lane / 16);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(right[2 * j][0]), "=r"(right[2 * j][1]), "=r"(right[2 * j + 1][0]),
                       "=r"(right[2 * j + 1][1])
                     : "r"(place));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
              "{%0,%1,%2,%3};\n"
              : "+f"(sum[i][j][0]), "+f"(sum[i][j][1]), "+f"(sum[i][j][2]), "+f"(sum[i][j][3])
              : "r"(left[i][0]), "r"(left[i][1]), "r"(left[i][2]), "r"(left[i][3]), "r"(right[j][0]),
                "r"(right[j][1]));
    }
  }
  asm volatile("cp.async.wait_group 0;\n");
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int n = firstColumn + warpColumn * 32 + j * 8 + lane % 4 * 2;
      if (n >= columns) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int m = firstRow + warpRow * 64 + i * 16 + lane / 4 + half * 8;
        if (m >= rows) continue;
        const float x = gelu(sum[i][j][2 * half] + bias[n]), y = gelu(sum[i][j][2 * half + 1] + bias[n + 1]);
        *reinterpret_cast<__nv_bfloat162*>(&C[static_cast<size_t>(m) * columns + n]) =
            __floats2bfloat162_rn(x, y);
      }
    }
}
