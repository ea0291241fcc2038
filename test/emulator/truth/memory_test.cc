// Device memory, pinned host memory and tensor maps.
#include "session.h"

using namespace truth;

TEST("memory runs out at its size, and frees make room") {
  const Session session(Environment{{"MEMORY_MB", "1"}});
  CUdeviceptr first = 0;
  CUdeviceptr second = 0;
  SUCCEED(cuMemAlloc_v2(&first, 600 << 10));
  EXPECT_EQUAL(cuMemAlloc_v2(&second, 600 << 10), CUDA_ERROR_OUT_OF_MEMORY);
  std::size_t free = 0;
  std::size_t total = 0;
  SUCCEED(cuMemGetInfo_v2(&free, &total));
  EXPECT_EQUAL(total, std::size_t{1} << 20);
  EXPECT_EQUAL(free, std::size_t{424} << 10);
  CUstream stream = nullptr;
  SUCCEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  SUCCEED(cuMemFreeAsync(first, stream));
  SUCCEED(cuMemAllocAsync(&second, 600 << 10, stream));
  EXPECT_EQUAL(cuMemAlloc_v2(&first, 0), CUDA_ERROR_INVALID_VALUE);
  CUmemoryPool pool = nullptr;
  SUCCEED(cuDeviceGetDefaultMemPool(&pool, 0));
  std::uint64_t threshold = ~std::uint64_t{0};
  SUCCEED(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  std::uint64_t used = 0;
  SUCCEED(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
  EXPECT_EQUAL(used, std::uint64_t{600} << 10);
  SUCCEED(cuMemPoolTrimTo(pool, 0));
}

TEST("double frees, foreign addresses and copies out of range are refused and reported") {
  const Session session;
  CUdeviceptr address = 0;
  char host[64] = {};
  SUCCEED(cuMemAlloc_v2(&address, 64));
  EXPECT_EQUAL(cuMemcpyHtoD_v2(address, host, 65), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(cuMemcpyHtoD_v2(address + 60, host, 8), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(cuMemcpyHtoD_v2(address, nullptr, 8), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(cuMemsetD32Async(address + 2, 0, 1, nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(cuMemFree_v2(address + 16), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(session.reports().back().string("kind"), "invalid-free");
  SUCCEED(cuMemFree_v2(address));
  EXPECT_EQUAL(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(session.reports().back().string("kind"), "double-free");
  EXPECT_EQUAL(cuMemcpyHtoD_v2(address, host, 64), CUDA_ERROR_INVALID_VALUE);
  SUCCEED(cuMemFree_v2(0));

  CUstream stream = nullptr;
  SUCCEED(cuStreamCreate(&stream, 0));
  SUCCEED(cuMemAllocAsync(&address, 64, stream));
  SUCCEED(cuMemFreeAsync(address, stream));
  EXPECT_EQUAL(cuMemFreeAsync(address, stream), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(session.reports().back().string("kind"), "double-free");
  SUCCEED(cuStreamSynchronize(stream));
}

TEST("bytes that nobody wrote are reported when they are copied to the host") {
  const Session session;
  CUdeviceptr address = 0;
  int host[4];
  SUCCEED(cuMemAlloc_v2(&address, sizeof host));
  SUCCEED(cuMemsetD32Async(address, 9, 2, nullptr));
  SUCCEED(cuMemcpyDtoH_v2(host, address, 8));
  EXPECT_EQUAL(session.reports().size(), std::size_t{0});
  EXPECT(host[0] == 9 && host[1] == 9);
  SUCCEED(cuMemcpyDtoH_v2(host, address, sizeof host));
  EXPECT_EQUAL(session.reports().size(), std::size_t{1});
  EXPECT_EQUAL(session.reports()[0].string("kind"), "undefined-copy");
  EXPECT(session.reports()[0].string("message").find("8 of 16 bytes") != std::string::npos);
}

TEST("host memory is pinned, registered once and given back once") {
  const Session session;
  void* pinned = nullptr;
  SUCCEED(cuMemHostAlloc(&pinned, 100, 0));
  std::vector<char> own(100);
  SUCCEED(cuMemHostRegister_v2(own.data(), own.size(), 0));
  EXPECT_EQUAL(cuMemHostRegister_v2(own.data() + 50, 10, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  EXPECT_EQUAL(cuMemFreeHost(own.data()), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(cuMemHostUnregister(pinned), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  SUCCEED(cuMemHostUnregister(own.data()));
  EXPECT_EQUAL(cuMemHostUnregister(own.data()), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  SUCCEED(cuMemFreeHost(pinned));
  EXPECT_EQUAL(cuMemFreeHost(pinned), CUDA_ERROR_INVALID_VALUE);
}

TEST("kernels reach pinned memory by the host's address, until it is freed") {
  const Session session;
  const Program program(incrementPtx);
  void* pinned = nullptr;
  SUCCEED(cuMemHostAlloc(&pinned, 3 * sizeof(int), 0));
  int* values = static_cast<int*>(pinned);
  for (int i = 0; i < 3; ++i) values[i] = 10 * i;
  const auto address = reinterpret_cast<CUdeviceptr>(pinned);
  SUCCEED(run(program.function("increment"), {1, 32}, address, 3u));
  EXPECT(values[0] == 1 && values[1] == 11 && values[2] == 21);
  SUCCEED(cuMemFreeHost(pinned));
  EXPECT_EQUAL(run(program.function("increment"), {1, 32}, address, 3u), CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST("tensor maps keep to the rules of the reference") {
  CUtensorMap map;
  const std::uint64_t dimensions[] = {64, 100};
  const std::uint64_t strides[] = {128};
  const unsigned box[] = {64, 8};
  const unsigned wideBox[] = {128, 8};
  const unsigned steps[] = {1, 1};
  const std::uint64_t oddStrides[] = {130};
  const auto encode = [&](CUdeviceptr address, const std::uint64_t* stride, const unsigned* tile,
                          int swizzle) {
    return cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, reinterpret_cast<void*>(address),
                                  dimensions, stride, tile, steps, 0, swizzle, 0, 0);
  };
  {
    const Session session;
    const DeviceArray<short> tensor(6400);
    SUCCEED(encode(tensor.address(), strides, box, 3));
    EXPECT_EQUAL(encode(tensor.address() + 2, strides, box, 3), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQUAL(encode(tensor.address(), oddStrides, box, 3), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQUAL(encode(tensor.address(), strides, wideBox, 3), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQUAL(encode(tensor.address(), strides, box, 2), CUDA_ERROR_INVALID_VALUE);
    SUCCEED(encode(tensor.address(), strides, wideBox, 0));
  }
  const Session session(Environment{{"ARCH", "8.0"}});
  const DeviceArray<short> tensor(6400);
  EXPECT_EQUAL(encode(tensor.address(), strides, box, 3), CUDA_ERROR_NOT_SUPPORTED);
}
