// Thin wrappers of the PTX instructions that compute capability 9.0 alone has: mbarriers with expected bytes,
// tile copies (TMA), warpgroup products (wgmma). Only *.sm90a.cu files may include this. Section names are
// those of the PTX ISA, chapter "Instruction Set".
#pragma once

#include <cstdint>

#include "cuda/kernels/ptx.cuh"

namespace softmoe::cuda::ptx {

// -- "Parallel Synchronization and Communication Instructions: mbarrier". A phase is over when `arrivals`
// threads have arrived and all expected bytes have come; phases have parities 0, 1, 0, …

__device__ __forceinline__ void barrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes the barriers visible to the copies, which reach shared memory by another way than threads.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}
// Makes this thread's writes to shared memory visible to products, which read it by that other way, too.
__device__ __forceinline__ void fence_written_tiles() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_arrive_expecting(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Waits until the phase of this parity is over. The phase before the first counts as over, with parity 1.
__device__ __forceinline__ void barrier_wait(std::uint32_t barrier, int parity) {
  std::uint32_t over;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!over);
}

// -- "Data Movement and Conversion Instructions: cp.async.bulk.tensor". A box of a tensor of three
// dimensions, from the element at (x, y, z), x the innermost; elements outside are zeros. Its bytes come at
// the barrier.
__device__ __forceinline__ void copy_tile(std::uint32_t shared, const void* map, int x, int y, int z,
                                          std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(shared),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}

// -- "Asynchronous Warpgroup Level Matrix Instructions: wgmma".

// "Matrix Descriptor Format": a matrix in shared memory in spans of 128 bytes with the swizzle of 128 bytes,
// whose groups of eight spans lie `stride` bytes apart. `leading` is the distance of spans beside each other
// where the summed dimension is not the contiguous one.
__device__ __forceinline__ std::uint64_t matrix_descriptor(std::uint32_t shared, int leading, int stride) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  return kSwizzle128 | static_cast<std::uint64_t>(stride >> 4) << 32 |
         static_cast<std::uint64_t>(leading >> 4) << 16 | (shared & 0x3ffff) >> 4;
}

__device__ __forceinline__ void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most `pending` of the newest groups are under way.
template <int pending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// c (+)= a b by the 128 threads of a warpgroup: a [64, 16] and b [16, 128] bfloat16, c [64, 128] float32.
// Thread t has the elements (16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), 8 (i / 4) + 2 (t % 4) + i % 2) in
// c[i]. Rows of a are contiguous, with `kColumnsOfA` its columns; those of b with `kRowsOfB`, else its
// columns.
template <bool kColumnsOfA, bool kRowsOfB>
__device__ __forceinline__ void multiply_m64n128k16(float (&c)[64], std::uint64_t a, std::uint64_t b,
                                                    bool add) {
#define SOFTMOE_C8(i)                                                                         \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
      "+f"(c[i + 6]), "+f"(c[i + 7])
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.s32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, %67, %68;\n}"
      : SOFTMOE_C8(0), SOFTMOE_C8(8), SOFTMOE_C8(16), SOFTMOE_C8(24), SOFTMOE_C8(32), SOFTMOE_C8(40),
        SOFTMOE_C8(48), SOFTMOE_C8(56)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kColumnsOfA ? 1 : 0), "n"(kRowsOfB ? 1 : 0)
      : "memory");
#undef SOFTMOE_C8
}

// "… bar.sync" of `threads` threads of the block at the barrier with this number.
template <int number, int threads>
__device__ __forceinline__ void barrier_sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(number), "n"(threads) : "memory");
}

}  // namespace softmoe::cuda::ptx
