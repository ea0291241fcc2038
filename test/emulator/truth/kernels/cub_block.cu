// Block-wide primitives of CUB, as the toolkit ships them.
#include <cub/block/block_histogram.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

constexpr int threads = 128;
constexpr int items = 4;
constexpr int bins = 32;

// Each block owns threads × items consecutive elements.
extern "C" __global__ __launch_bounds__(threads) void block_scan(const int* values, int* inclusive,
                                                                 int* exclusive, int* totals) {
  using Scan = cub::BlockScan<int, threads>;
  __shared__ typename Scan::TempStorage storage;
  const int first = (blockIdx.x * threads + threadIdx.x) * items;
  int own[items];
  int scanned[items];
  for (int i = 0; i < items; ++i) own[i] = values[first + i];
  Scan(storage).InclusiveSum(own, scanned);
  for (int i = 0; i < items; ++i) inclusive[first + i] = scanned[i];
  __syncthreads();
  int total;
  Scan(storage).ExclusiveSum(own, scanned, total);
  for (int i = 0; i < items; ++i) exclusive[first + i] = scanned[i];
  if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

extern "C" __global__ __launch_bounds__(threads) void block_radix_sort(float* keys, int* values) {
  using Sort = cub::BlockRadixSort<float, threads, items, int>;
  __shared__ typename Sort::TempStorage storage;
  const int first = (blockIdx.x * threads + threadIdx.x) * items;
  float key[items];
  int value[items];
  for (int i = 0; i < items; ++i) key[i] = keys[first + i], value[i] = values[first + i];
  Sort(storage).SortDescending(key, value);
  for (int i = 0; i < items; ++i) keys[first + i] = key[i], values[first + i] = value[i];
}

struct Larger {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};

extern "C" __global__ __launch_bounds__(threads) void block_reduce(const float* values, double* sums,
                                                                   float* largest) {
  using Sum = cub::BlockReduce<double, threads>;
  using Most = cub::BlockReduce<float, threads, cub::BLOCK_REDUCE_RAKING>;
  __shared__ typename Sum::TempStorage sumStorage;
  __shared__ typename Most::TempStorage mostStorage;
  const float value = values[blockIdx.x * threads + threadIdx.x];
  const double sum = Sum(sumStorage).Sum(static_cast<double>(value));
  const float most = Most(mostStorage).Reduce(value, Larger());
  if (threadIdx.x == 0) sums[blockIdx.x] = sum, largest[blockIdx.x] = most;
}

extern "C" __global__ __launch_bounds__(threads) void block_histogram(const unsigned char* samples,
                                                                      unsigned* atomicBins,
                                                                      unsigned* sortedBins) {
  using Atomic = cub::BlockHistogram<unsigned char, threads, items, bins, cub::BLOCK_HISTO_ATOMIC>;
  using Sorted = cub::BlockHistogram<unsigned char, threads, items, bins, cub::BLOCK_HISTO_SORT>;
  __shared__ typename Sorted::TempStorage sortedStorage;
  __shared__ typename Atomic::TempStorage atomicStorage;
  __shared__ unsigned counts[bins];
  const int first = (blockIdx.x * threads + threadIdx.x) * items;
  unsigned char own[items];
  for (int i = 0; i < items; ++i) own[i] = samples[first + i];
  Atomic(atomicStorage).Histogram(own, counts);
  __syncthreads();
  if (threadIdx.x < bins) atomicBins[blockIdx.x * bins + threadIdx.x] = counts[threadIdx.x];
  __syncthreads();
  Sorted(sortedStorage).Histogram(own, counts);
  __syncthreads();
  if (threadIdx.x < bins) sortedBins[blockIdx.x * bins + threadIdx.x] = counts[threadIdx.x];
}
