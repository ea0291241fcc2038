// c = a b^T by the means of compute capability 9.0: tiles of 64 x 64 come by TMA with a swizzle of 128 bytes
// and are waited for at mbarriers, one warpgroup multiplies them by wgmma, and the result leaves by TMA. Two
// stages; the next tile is fetched while one is multiplied. Right, and with one mistake each.
#include <cstdint>

namespace {

enum class Bug { none, noArrivalWait, noProductWait, earlyRead, earlyRefill, fewBytes };

struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

constexpr int threads = 128, tile = 64, panelBytes = tile * tile * 2, stageBytes = 2 * panelBytes;

__device__ std::uint32_t address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ void copyTile(std::uint32_t target, const TensorMap* map, int x, int y, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(target),
      "l"(map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}

__device__ void waitFor(std::uint32_t barrier, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra AGAIN;\n}" ::
          "r"(barrier),
      "r"(parity)
      : "memory");
}

// Rows of 128 bytes in groups of eight, swizzled.
__device__ std::uint64_t descriptor(std::uint32_t shared) {
  return (std::uint64_t{1} << 62) | (std::uint64_t{1024 >> 4} << 32) | (std::uint64_t{1} << 16) | shared >> 4;
}

#define C4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define C16(i) C4(i), C4(i + 4), C4(i + 8), C4(i + 12)
__device__ void multiply(float (&c)[32], std::uint64_t a, std::uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
      "%11, "
      "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, 1, 1, 1, 0, 0;"
      : C16(0), C16(16)
      : "l"(a), "l"(b)
      : "memory");
}

template <Bug bug>
__device__ void product(const TensorMap& a, const TensorMap& b, const TensorMap& c, int depth) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ __align__(8) std::uint64_t barriers[2];
  const std::uint32_t stages = address(shared), full = address(barriers);
  const int row = blockIdx.y * tile, column = blockIdx.x * tile, tiles = (depth + tile - 1) / tile;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full + 8 * i) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  const auto fetch = [&](int t) {
    if (threadIdx.x > 0 || t >= tiles) return;
    const std::uint32_t stage = stages + t % 2 * stageBytes, barrier = full + t % 2 * 8;
    const int bytes = bug == Bug::fewBytes ? panelBytes : stageBytes;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
    copyTile(stage, &a, t * tile, row, barrier);
    copyTile(stage + panelBytes, &b, t * tile, column, barrier);
  };
  float sums[32] = {};
  fetch(0);
  for (int t = 0; t < tiles; ++t) {
    if (bug != Bug::earlyRefill) fetch(t + 1);
    if (bug != Bug::noArrivalWait) waitFor(full + t % 2 * 8, t / 2 % 2);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    const std::uint32_t stage = stages + t % 2 * stageBytes;
    for (int k = 0; k < 4; ++k)
      multiply(sums, descriptor(stage + 32 * k), descriptor(stage + panelBytes + 32 * k));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    // The stage of the products under way is filled again.
    if (bug == Bug::earlyRefill) fetch(t + 2), fetch(t == 0 ? 1 : tiles);
    if (bug != Bug::noProductWait && !(bug == Bug::earlyRead && t + 1 == tiles))
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    __syncthreads();
  }
  float* result = reinterpret_cast<float*>(shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = 0; i < 32; ++i) {
    const int r = warp * 16 + lane / 4 + i / 2 % 2 * 8, at = i / 4 * 8 + lane % 4 * 2 + i % 2;
    result[r * tile + at] = sums[i];
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x > 0) return;
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&c),
               "r"(column), "r"(row), "r"(stages)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
}

}  // namespace

#define PRODUCT(name, bug)                                                           \
  extern "C" __global__ void __launch_bounds__(threads)                              \
      name(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, \
           const __grid_constant__ TensorMap c, int depth) {                         \
    product<Bug::bug>(a, b, c, depth);                                               \
  }
PRODUCT(product_right, none)
PRODUCT(product_no_arrival_wait, noArrivalWait)
PRODUCT(product_no_product_wait, noProductWait)
PRODUCT(product_early_read, earlyRead)
PRODUCT(product_early_refill, earlyRefill)
PRODUCT(product_few_bytes, fewBytes)
