// What goes wrong on purpose: faults that stay, failures asked for by the environment, leaks, journals.
#include <cstdlib>

#include "session.h"

using namespace truth;

namespace {

// A small host program: allocates, uploads, launches, downloads. Returns the first failure.
CUresult smallProgram(std::vector<int>* result = nullptr) {
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  CUstream stream = nullptr;
  CUdeviceptr data = 0;
  std::vector<int> host{1, 2, 3, 4};
  unsigned count = 4;
  void* parameters[] = {&data, &count};
  CUresult failure = CUDA_SUCCESS;
  const auto step = [&](CUresult outcome) {
    if (failure == CUDA_SUCCESS) failure = outcome;
    return failure == CUDA_SUCCESS;
  };
  const bool finished =
      step(cuInit(0)) && step(cuDevicePrimaryCtxRetain(&context, 0)) && step(cuCtxSetCurrent(context)) &&
      step(cuModuleLoadData(&module, incrementPtx)) &&
      step(cuModuleGetFunction(&function, module, "increment")) && step(cuStreamCreate(&stream, 1)) &&
      step(cuMemAlloc_v2(&data, 16)) && step(cuMemcpyHtoDAsync_v2(data, host.data(), 16, stream)) &&
      step(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, parameters, nullptr)) &&
      step(cuMemcpyDtoHAsync_v2(host.data(), data, 16, stream)) && step(cuStreamSynchronize(stream)) &&
      step(cuMemFree_v2(data)) && step(cuStreamDestroy_v2(stream)) && step(cuModuleUnload(module)) &&
      step(cuDevicePrimaryCtxRelease_v2(0));
  if (finished && result) *result = host;
  return failure;
}

}  // namespace

TEST("a kernel that leaves its memory faults, is reported, and the fault stays with the context") {
  Session session;
  CUdeviceptr address = 0;
  SUCCEED(cuMemAlloc_v2(&address, 4 * 32));
  SUCCEED(cuMemsetD32Async(address, 0, 32, nullptr));
  CUstream stream = nullptr;
  SUCCEED(cuStreamCreate(&stream, 0));
  CUmodule module = nullptr;
  CUfunction increment = nullptr;
  SUCCEED(cuModuleLoadData(&module, incrementPtx));
  SUCCEED(cuModuleGetFunction(&increment, module, "increment"));
  SUCCEED(launchOn(stream, increment, {2, 32}, address, 33u));  // the launch itself does not know yet
  EXPECT_EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  const std::vector<JournalLine> reports = session.reports();
  EXPECT(!reports.empty());
  EXPECT_EQUAL(reports[0].string("kind"), "global-bounds");
  EXPECT_EQUAL(reports[0].string("kernel"), "increment");
  EXPECT_EQUAL(reports[0].number("lane"), 0);
  EXPECT(reports[0].text.find("\"block\":[1,0,0]") != std::string::npos);

  CUevent event = nullptr;
  CUdeviceptr more = 0;
  EXPECT_EQUAL(cuMemAlloc_v2(&more, 4), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQUAL(cuEventCreate(&event, 0), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQUAL(launchOn(stream, increment, {1, 32}, address, 1u), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQUAL(cuStreamQuery(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQUAL(cuMemFree_v2(address), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQUAL(cuStreamDestroy_v2(stream), CUDA_ERROR_ILLEGAL_ADDRESS);

  SUCCEED(cuDevicePrimaryCtxRelease_v2(0));
  CUcontext fresh = nullptr;
  SUCCEED(cuDevicePrimaryCtxRetain(&fresh, 0));
  SUCCEED(cuCtxSetCurrent(fresh));
  SUCCEED(cuMemAlloc_v2(&more, 4));
}

TEST("work queued behind a fault is dropped, host functions too") {
  const Session session;
  const Program program(incrementPtx);
  CUstream stream = nullptr;
  SUCCEED(cuStreamCreate(&stream, 0));
  int called = 0;
  int host = 5;
  CUdeviceptr address = 0;
  SUCCEED(cuMemAlloc_v2(&address, 4));
  SUCCEED(cuMemsetD32Async(address, 1, 1, stream));
  SUCCEED(launchOn(stream, program.function("increment"), {1, 32}, address + (std::uint64_t{1} << 40), 1u));
  SUCCEED(cuMemcpyDtoHAsync_v2(&host, address, 4, stream));
  SUCCEED(cuLaunchHostFunc(
      stream, [](void* data) { ++*static_cast<int*>(data); }, &called));
  EXPECT_EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQUAL(called, 0);
  EXPECT_EQUAL(host, 5);
}

TEST("the n-th allocation, the n-th launch and the n-th call of a function fail when asked to") {
  CUdeviceptr address = 0;
  {
    const Session session(Environment{{"FAIL", "alloc:3:2"}});
    SUCCEED(cuMemAlloc_v2(&address, 4));
    SUCCEED(cuMemAllocAsync(&address, 4, nullptr));
    EXPECT_EQUAL(cuMemAlloc_v2(&address, 4), CUDA_ERROR_OUT_OF_MEMORY);
    SUCCEED(cuMemAlloc_v2(&address, 4));
  }
  {
    const Session session(Environment{{"FAIL", "launch:2:719"}});
    const Program program(incrementPtx);
    const DeviceArray<int> data(std::vector<int>(32, 0));
    const CUfunction increment = program.function("increment");
    SUCCEED(launchOn(nullptr, increment, {1, 32}, data.address(), 1u));
    EXPECT_EQUAL(launchOn(nullptr, increment, {1, 32}, data.address(), 1u), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_EQUAL(cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);  // a fault stays
  }
  {
    const Session session(Environment{{"FAIL", "cuEventCreate:2:400,cuStreamCreate:1:801"}});
    CUevent event = nullptr;
    CUstream stream = nullptr;
    SUCCEED(cuEventCreate(&event, 0));
    EXPECT_EQUAL(cuEventCreate(&event, 0), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQUAL(cuStreamCreate(&stream, 0), CUDA_ERROR_NOT_SUPPORTED);
    SUCCEED(cuStreamCreate(&stream, 0));
  }
}

TEST("every driver call of a program can be failed in turn, and the calls are counted") {
  int total = 0;
  {
    Session session({}, false);
    std::vector<int> result;
    SUCCEED(smallProgram(&result));
    EXPECT(result == (std::vector<int>{2, 3, 4, 5}));
    session.close();
    const std::vector<JournalLine> calls = session.calls();
    EXPECT_EQUAL(calls.size(), std::size_t{1});
    total = static_cast<int>(calls[0].number("total"));
    EXPECT_EQUAL(calls[0].number("cuMemcpyHtoDAsync_v2"), 1);
  }
  EXPECT_EQUAL(total, 15);
  for (int nth = 1; nth <= total; ++nth) {
    const Session session(Environment{{"FAIL", "*:" + std::to_string(nth) + ":999"}}, false);
    EXPECT_EQUAL(smallProgram(), CUDA_ERROR_UNKNOWN);
  }
  const Session session(Environment{{"FAIL", "*:" + std::to_string(total + 1) + ":999"}}, false);
  SUCCEED(smallProgram());
}

TEST("what a program does not give back is listed at its end, and nothing when it does") {
  {
    Session session({}, false);
    SUCCEED(smallProgram());
    session.close();
    EXPECT_EQUAL(session.leaks().size(), std::size_t{0});
  }
  Session session;
  CUdeviceptr address = 0;
  CUstream stream = nullptr;
  void* pinned = nullptr;
  SUCCEED(cuMemAlloc_v2(&address, 1234));
  SUCCEED(cuStreamCreate(&stream, 0));
  SUCCEED(cuMemHostAlloc(&pinned, 55, 0));
  session.close();
  const std::vector<JournalLine> leaks = session.leaks();
  EXPECT_EQUAL(leaks.size(), std::size_t{3});
  EXPECT_EQUAL(leaks[0].string("what"), "device memory");
  EXPECT_EQUAL(leaks[0].number("bytes"), 1234);
  EXPECT_EQUAL(leaks[1].string("what"), "pinned host memory");
  EXPECT_EQUAL(leaks[2].string("what"), "stream");
}

TEST("counters of each launch are written as one JSON object") {
  const Session session;
  const Program program(incrementPtx);
  const DeviceArray<int> data(std::vector<int>(100, 0));
  SUCCEED(run(program.function("increment"), {4, 32}, data.address(), 100u));
  SUCCEED(run(program.function("increment"), {1, 64}, data.address(), 64u));
  const std::vector<JournalLine> counters = session.counters();
  EXPECT_EQUAL(counters.size(), std::size_t{2});
  EXPECT_EQUAL(counters[0].string("kernel"), "increment");
  EXPECT(counters[0].text.find("\"grid\":[4,1,1]") != std::string::npos);
  EXPECT_EQUAL(counters[0].number("globalLoadBytes"), 400);
  EXPECT_EQUAL(counters[1].number("globalLoadBytes"), 256);
}

TEST("a setting that means nothing is refused") {
  const Session session(Environment{{"ASYNC", "sometimes"}}, false);
  EXPECT_EQUAL(cuInit(0), CUDA_ERROR_UNKNOWN);
}
