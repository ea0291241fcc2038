// Small kernels, each right and with one mistake. A comment `// BUG name` marks the line that a checker must
// name.
#include <cstdint>

constexpr int threads = 128;

__device__ void copyAsync(void* target, const void* source) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(target));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(place), "l"(source));
}

// Reverses 128 values. Without the barrier a warp reads what another has not written yet.
template <bool barrier>
__device__ void reverse(const float* values, float* reversed) {
  __shared__ float tile[threads];
  tile[threadIdx.x] = values[threadIdx.x];
  if (barrier) __syncthreads();
  reversed[threadIdx.x] = tile[threads - 1 - threadIdx.x];  // BUG missing barrier
}
extern "C" __global__ void reverse_right(const float* values, float* reversed) {
  reverse<true>(values, reversed);
}
extern "C" __global__ void reverse_wrong(const float* values, float* reversed) {
  reverse<false>(values, reversed);
}

// Sums rows of 128 values through one buffer. Without the second barrier a fast warp overwrites what a slow
// one still reads.
template <bool barrier>
__device__ void sumRows(const float* values, float* sums, int rows) {
  __shared__ float tile[threads];
  for (int row = 0; row < rows; ++row) {
    tile[threadIdx.x] = values[row * threads + threadIdx.x];
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < threads; i += 8) sum += tile[(threadIdx.x + i) % threads];
    sums[row * threads + threadIdx.x] = sum;
    if (barrier) __syncthreads();
  }
}
extern "C" __global__ void sum_rows_right(const float* values, float* sums, int rows) {
  sumRows<true>(values, sums, rows);
}
extern "C" __global__ void sum_rows_wrong(const float* values, float* sums, int rows) {
  sumRows<false>(values, sums, rows);
}

// Two stages of asynchronous copies. Waiting until only one group is on its way leaves the last one unread;
// waiting until two are leaves the one that is needed.
template <int pending>
__device__ void pipeline(const float* values, float* doubled) {
  __shared__ float tile[2][threads];
  copyAsync(&tile[0][threadIdx.x], values + threadIdx.x);
  asm volatile("cp.async.commit_group;\n");
  copyAsync(&tile[1][threadIdx.x], values + threads + threadIdx.x);
  asm volatile("cp.async.commit_group;\n");
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
  doubled[threadIdx.x] = 2 * tile[0][threadIdx.x];  // BUG wrong wait count
  asm volatile("cp.async.wait_group 0;\n" ::: "memory");
  doubled[threads + threadIdx.x] = 2 * tile[1][threadIdx.x];
}
extern "C" __global__ void pipeline_right(const float* values, float* doubled) {
  pipeline<1>(values, doubled);
}
extern "C" __global__ void pipeline_wrong(const float* values, float* doubled) {
  pipeline<2>(values, doubled);
}

// Without the guard the last block writes behind the array.
template <bool guard>
__device__ void scale(float* values, int count) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (guard && index >= count) return;
  values[index] = 3.f;  // BUG missing guard
}
extern "C" __global__ void scale_right(float* values, int count) { scale<true>(values, count); }
extern "C" __global__ void scale_wrong(float* values, int count) { scale<false>(values, count); }

// Transposes a 32 × 32 tile. A row of 33 keeps the columns in different banks; one of 32 is right and slow.
template <int pitch>
__device__ void transpose(const float* values, float* transposed) {
  __shared__ float tile[32 * pitch];
  for (int row = threadIdx.y; row < 32; row += blockDim.y)
    tile[row * pitch + threadIdx.x] = values[row * 32 + threadIdx.x];
  __syncthreads();
  for (int row = threadIdx.y; row < 32; row += blockDim.y)
    transposed[row * 32 + threadIdx.x] = tile[threadIdx.x * pitch + row];  // BUG bank conflict
}
extern "C" __global__ void transpose_right(const float* values, float* transposed) {
  transpose<33>(values, transposed);
}
extern "C" __global__ void transpose_wrong(const float* values, float* transposed) {
  transpose<32>(values, transposed);
}

// Shifts by one; the wrong one never writes the element that the last thread reads.
template <bool whole>
__device__ void shift(const float* values, float* shifted) {
  __shared__ float tile[threads + 1];
  tile[threadIdx.x] = values[threadIdx.x];
  if (whole && threadIdx.x == 0) tile[threads] = 0;
  __syncthreads();
  shifted[threadIdx.x] = tile[threadIdx.x + 1];  // BUG uninitialised read
}
extern "C" __global__ void shift_right(const float* values, float* shifted) { shift<true>(values, shifted); }
extern "C" __global__ void shift_wrong(const float* values, float* shifted) { shift<false>(values, shifted); }

// The wrong one counts in shared memory that nobody cleared.
template <bool clear>
__device__ void histogram(const int* values, int* counts) {
  __shared__ int bins[4];
  if (clear && threadIdx.x < 4) bins[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(&bins[values[threadIdx.x] & 3], 1);
  __syncthreads();
  if (threadIdx.x < 4) counts[threadIdx.x] = bins[threadIdx.x];
}
extern "C" __global__ void histogram_right(const int* values, int* counts) {
  histogram<true>(values, counts);
}
extern "C" __global__ void histogram_wrong(const int* values, int* counts) {
  histogram<false>(values, counts);
}

// A branch on a value of global memory that nobody wrote.
extern "C" __global__ void count_positive(const float* values, int* total) {
  if (values[threadIdx.x] > 0)  // BUG uninitialised branch
    atomicAdd(total, 1);
}

// Float atomics: the order of blocks decides the last bits. The right one adds partial sums in a fixed order.
extern "C" __global__ void sum_wrong(const float* values, float* total) {
  atomicAdd(total, values[blockIdx.x * blockDim.x + threadIdx.x]);
}
extern "C" __global__ void sum_right(const float* values, float* total, int count) {
  __shared__ float partial[threads];
  float sum = 0;
  for (int i = threadIdx.x; i < count; i += threads) sum += values[i];
  partial[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int i = 0; i < threads; ++i) sum += partial[i];
  *total = sum;
}

// A barrier that only half of each warp reaches.
extern "C" __global__ void barrier_in_branch(const float* values, float* result) {
  __shared__ float tile[threads];
  tile[threadIdx.x] = values[threadIdx.x];
  if (threadIdx.x % 32 < 16) {
    __syncthreads();  // BUG barrier in a branch
    result[threadIdx.x] = tile[threadIdx.x ^ 1];
  }
}

// Two barriers of 128 threads each, and half of the block at either: nobody goes on.
extern "C" __global__ void deadlock(int* result) {
  const int barrier = threadIdx.x < 64 ? 1 : 2;
  asm volatile("bar.sync %0, 128;\n" ::"r"(barrier) : "memory");  // BUG deadlock
  result[threadIdx.x] = barrier;
}

// 16-byte loads of addresses that are multiples of four only.
extern "C" __global__ void load_vectors(const float* values, float* sums, int offset) {
  const float4 four = *reinterpret_cast<const float4*>(values + offset + 4 * threadIdx.x);  // BUG misaligned
  sums[threadIdx.x] = four.x + four.y + four.z + four.w;
}

extern "C" __global__ void assert_small(const int* values) {
  if (values[threadIdx.x] > 100) __trap();  // BUG trap
}
