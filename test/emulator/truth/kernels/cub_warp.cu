// Warp-wide primitives of CUB, as the toolkit ships them: whole warps and logical warps of eight lanes.
#include <cub/warp/warp_reduce.cuh>
#include <cub/warp/warp_scan.cuh>

constexpr int threads = 64;

struct Plus {
  __device__ int operator()(int a, int b) const { return a + b; }
};

template <int width>
__device__ void reduceAndScan(const int* values, int* sums, int* inclusive, int* exclusive) {
  using Reduce = cub::WarpReduce<int, width>;
  using Scan = cub::WarpScan<int, width>;
  __shared__ typename Reduce::TempStorage reduceStorage[threads / width];
  __shared__ typename Scan::TempStorage scanStorage[threads / width];
  const int index = blockIdx.x * threads + threadIdx.x;
  const int warp = threadIdx.x / width;
  const int sum = Reduce(reduceStorage[warp]).Sum(values[index]);
  if (threadIdx.x % width == 0) sums[index / width] = sum;
  int included;
  int excluded;
  Scan(scanStorage[warp]).Scan(values[index], included, excluded, 0, Plus());
  inclusive[index] = included;
  exclusive[index] = excluded;
}

extern "C" __global__ __launch_bounds__(threads) void warp_32(const int* values, int* sums, int* inclusive,
                                                              int* exclusive) {
  reduceAndScan<32>(values, sums, inclusive, exclusive);
}

extern "C" __global__ __launch_bounds__(threads) void warp_8(const int* values, int* sums, int* inclusive,
                                                             int* exclusive) {
  reduceAndScan<8>(values, sums, inclusive, exclusive);
}

// Sums of runs: a flag marks the first lane of each.
extern "C" __global__ __launch_bounds__(threads) void warp_segmented(const int* values, const int* heads,
                                                                     int* sums) {
  using Reduce = cub::WarpReduce<int>;
  __shared__ typename Reduce::TempStorage storage[threads / 32];
  const int index = blockIdx.x * threads + threadIdx.x;
  const int sum = Reduce(storage[threadIdx.x / 32]).HeadSegmentedSum(values[index], heads[index]);
  sums[index] = heads[index] ? sum : 0;
}
