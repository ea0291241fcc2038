// Cooperative groups of the toolkit: tiled partitions, reductions, scans, coalesced groups, labelled
// partitions.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

namespace cg = cooperative_groups;

extern "C" __global__ void tiled_sums(const int* values, int* tile4, int* tile16, int* scans) {
  const cg::thread_block block = cg::this_thread_block();
  const cg::thread_block_tile<16> sixteen = cg::tiled_partition<16>(block);
  const cg::thread_block_tile<4> four = cg::tiled_partition<4>(sixteen);
  const int index = blockIdx.x * blockDim.x + block.thread_rank();
  int sum = values[index];
  for (int step = four.size() / 2; step > 0; step /= 2) sum += four.shfl_down(sum, step);
  if (four.thread_rank() == 0) tile4[index / 4] = sum;
  const int total = cg::reduce(sixteen, values[index], cg::plus<int>());
  if (sixteen.thread_rank() == 0) tile16[index / 16] = total;
  scans[index] = cg::inclusive_scan(sixteen, values[index]);
}

// Reductions that sm_80 has instructions for, and one that it has not.
extern "C" __global__ void warp_reductions(const int* values, const float* floats, int* least, unsigned* bits,
                                           float* largest) {
  const cg::thread_block_tile<32> warp = cg::tiled_partition<32>(cg::this_thread_block());
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  const int smallest = cg::reduce(warp, values[index], cg::less<int>());
  const unsigned mixed = cg::reduce(warp, static_cast<unsigned>(values[index]), cg::bit_xor<unsigned>());
  const float most = cg::reduce(warp, floats[index], cg::greater<float>());
  if (warp.thread_rank() == 0)
    least[index / 32] = smallest, bits[index / 32] = mixed, largest[index / 32] = most;
}

// Appends the odd values, one atomic for all lanes of a warp that have one. Order within the output is open.
extern "C" __global__ void append_odd(const int* values, int count, int* output, int* length) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count || values[index] % 2 == 0) return;
  const cg::coalesced_group active = cg::coalesced_threads();
  int base = 0;
  if (active.thread_rank() == 0) base = atomicAdd(length, static_cast<int>(active.size()));
  output[active.shfl(base, 0) + active.thread_rank()] = values[index];
}

// Counts the lanes of a warp that have the same label.
extern "C" __global__ void same_label(const int* labels, int* counts) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  const cg::thread_block_tile<32> warp = cg::tiled_partition<32>(cg::this_thread_block());
  const cg::coalesced_group alike = cg::labeled_partition(warp, labels[index]);
  counts[index] = cg::reduce(alike, 1, cg::plus<int>());
}

// Every block writes its part, all wait for each other, every block reads its neighbour's; three times.
extern "C" __global__ void rotate_blocks(int* values, int* rotated) {
  const cg::grid_group grid = cg::this_grid();
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  const int neighbour = (blockIdx.x + 1) % gridDim.x * blockDim.x + threadIdx.x;
  for (int turn = 0; turn < 3; ++turn) {
    const int value = values[neighbour];
    grid.sync();
    values[index] = value + 1;
    grid.sync();
  }
  rotated[index] = values[index];
}

// The same wait without the toolkit: the last block to arrive opens the gate for those that spin.
extern "C" __global__ void sum_of_all(const int* values, int* parts, int* arrived, int* sums) {
  int part = __reduce_add_sync(~0u, values[blockIdx.x * 32 + threadIdx.x]);
  if (threadIdx.x > 0) return;
  parts[blockIdx.x] = part;
  __threadfence();
  atomicAdd(arrived, 1);
  while (atomicAdd(arrived, 0) < static_cast<int>(gridDim.x)) {
  }
  __threadfence();
  int sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += parts[block];
  sums[blockIdx.x] = sum;
}
