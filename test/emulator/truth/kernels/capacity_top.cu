// The `capacity` best of up to 1024 scores of each expert (one a block), best first, and for every token its
// place among the chosen in token order or -1. CUB radix sort and scan.
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_scan.cuh>

constexpr int threads = 128, items = 8;

extern "C" __global__ __launch_bounds__(threads) void capacity_top(const float* __restrict__ scores,
                                                                   int tokens, int capacity,
                                                                   int* __restrict__ chosen,
                                                                   int* __restrict__ places,
                                                                   int* __restrict__ total) {
  using Sort = cub::BlockRadixSort<float, threads, items, int>;
  using Scan = cub::BlockScan<int, threads>;
  __shared__ union {
    typename Sort::TempStorage sort;
    typename Scan::TempStorage scan;
  } storage;
  __shared__ unsigned kept[threads * items];
  const size_t first = static_cast<size_t>(blockIdx.x) * tokens;
  float key[items];
  int token[items];
#pragma unroll
  for (int i = 0; i < items; ++i) {
    token[i] = threadIdx.x * items + i;
    key[i] = token[i] < tokens ? scores[first + token[i]] : -3.0e38f;
    kept[token[i]] = 0;
  }
  Sort(storage.sort).SortDescending(key, token);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int rank = threadIdx.x * items + i;
    if (rank < capacity && token[i] < tokens) {
      chosen[blockIdx.x * capacity + rank] = token[i];
      kept[token[i]] = 1;
    }
  }
  __syncthreads();
  int flag[items], count;
#pragma unroll
  for (int i = 0; i < items; ++i) flag[i] = kept[threadIdx.x * items + i];
  Scan(storage.scan).ExclusiveSum(flag, flag, count);
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int t = threadIdx.x * items + i;
    if (t < tokens) places[first + t] = kept[t] ? flag[i] : -1;
  }
  if (threadIdx.x == 0) atomicAdd(total, count);
}
