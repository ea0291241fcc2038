// When queued work runs: deferred execution, stream and event order, host functions, graphs, the background
// thread.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "session.h"

using namespace truth;

namespace {

CUstream newStream(unsigned flags = CU_STREAM_NON_BLOCKING) {
  CUstream stream = nullptr;
  SUCCEED(cuStreamCreate(&stream, flags));
  return stream;
}

CUevent newEvent(unsigned flags = 0) {
  CUevent event = nullptr;
  SUCCEED(cuEventCreate(&event, flags));
  return event;
}

struct Recorder {
  std::vector<int> order;
  std::vector<CUresult> inside;
};

void recordOne(void* recorder) { static_cast<Recorder*>(recorder)->order.push_back(1); }
void recordTwo(void* recorder) { static_cast<Recorder*>(recorder)->order.push_back(2); }
void callDriver(void* recorder) {
  CUdeviceptr address = 0;
  static_cast<Recorder*>(recorder)->inside.push_back(cuMemAlloc_v2(&address, 4));
}

void captureFill(CUstream stream, CUgraph* graph, CUdeviceptr address, int value) {
  SUCCEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  SUCCEED(cuMemsetD32Async(address, static_cast<unsigned>(value), 1, stream));
  SUCCEED(cuStreamEndCapture(stream, graph));
}

}  // namespace

TEST("an asynchronous copy reads host memory when it runs: changing it too early shows") {
  const Session session;
  const CUstream stream = newStream();
  const DeviceArray<int> data(std::vector<int>{0});
  int source = 1;
  SUCCEED(cuMemcpyHtoDAsync_v2(data.address(), &source, 4, stream));
  source = 2;
  SUCCEED(cuStreamSynchronize(stream));
  EXPECT_EQUAL(data.download()[0], 2);
}

TEST("an asynchronous copy to the host is not there before someone waits") {
  const Session session;
  const CUstream stream = newStream();
  const DeviceArray<int> data(std::vector<int>{41});
  const Program program(incrementPtx);
  int host = -1;
  SUCCEED(launchOn(stream, program.function("increment"), {1, 32}, data.address(), 1u));
  SUCCEED(cuMemcpyDtoHAsync_v2(&host, data.address(), 4, stream));
  EXPECT_EQUAL(host, -1);
  SUCCEED(cuStreamSynchronize(stream));
  EXPECT_EQUAL(host, 42);
}

TEST("another stream sees old data without an event, new data with one") {
  for (const bool withEvent : {false, true}) {
    const Session session;
    const CUstream producer = newStream();
    const CUstream consumer = newStream();
    const CUevent ready = newEvent(CU_EVENT_DISABLE_TIMING);
    const DeviceArray<int> data(std::vector<int>{1});
    int host = -1;
    SUCCEED(cuMemsetD32Async(data.address(), 7, 1, producer));
    SUCCEED(cuEventRecord(ready, producer));
    if (withEvent) SUCCEED(cuStreamWaitEvent(consumer, ready, 0));
    SUCCEED(cuMemcpyDtoHAsync_v2(&host, data.address(), 4, consumer));
    SUCCEED(cuStreamSynchronize(consumer));
    EXPECT_EQUAL(host, withEvent ? 7 : 1);
  }
}

TEST("a wait is for what the event had recorded at the call") {
  const Session session;
  const CUstream first = newStream();
  const CUstream second = newStream();
  const CUevent event = newEvent();
  const DeviceArray<int> data(std::vector<int>{1});
  int host = -1;
  SUCCEED(cuStreamWaitEvent(second, event, 0));  // never recorded: no wait
  SUCCEED(cuEventQuery(event));
  SUCCEED(cuMemsetD32Async(data.address(), 2, 1, first));
  SUCCEED(cuEventRecord(event, first));
  SUCCEED(cuStreamWaitEvent(second, event, 0));
  SUCCEED(cuMemsetD32Async(data.address(), 3, 1, first));
  SUCCEED(cuEventRecord(event, first));  // recorded anew: the wait above stays with the first record
  SUCCEED(cuMemcpyDtoHAsync_v2(&host, data.address(), 4, second));
  SUCCEED(cuEventDestroy_v2(event));
  SUCCEED(cuStreamSynchronize(second));
  EXPECT_EQUAL(host, 2);
}

TEST("the legacy stream waits for blocking streams and they for it; non-blocking ones go on") {
  const Session session;
  const CUstream blocking = newStream(CU_STREAM_DEFAULT);
  const CUstream free = newStream(CU_STREAM_NON_BLOCKING);
  const DeviceArray<int> data(std::vector<int>{1, 1});
  int host[2] = {-1, -1};
  SUCCEED(cuMemsetD32Async(data.address(), 5, 1, blocking));
  SUCCEED(cuMemsetD32Async(data.address() + 4, 5, 1, free));
  SUCCEED(cuMemcpyDtoH_v2(host, data.address(), 8));
  EXPECT_EQUAL(host[0], 5);
  EXPECT_EQUAL(host[1], 1);
  SUCCEED(cuMemsetD32Async(data.address(), 6, 1, blocking));
  EXPECT_EQUAL(cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
  SUCCEED(cuStreamQuery(nullptr));
  SUCCEED(cuMemsetD32Async(data.address(), 6, 1, nullptr));
  SUCCEED(cuMemcpyDtoHAsync_v2(host, data.address(), 4, blocking));
  SUCCEED(cuStreamSynchronize(blocking));
  EXPECT_EQUAL(host[0], 6);
  SUCCEED(cuCtxSynchronize());
  EXPECT_EQUAL(data.download()[1], 5);
}

TEST("polling an event or a stream meets 'not ready' and gets there") {
  const Session session;
  const CUstream stream = newStream();
  const CUevent event = newEvent();
  const DeviceArray<int> data(1);
  for (int i = 0; i < 3; ++i) SUCCEED(cuMemsetD32Async(data.address(), 1, 1, stream));
  SUCCEED(cuEventRecord(event, stream));
  EXPECT_EQUAL(cuEventQuery(event), CUDA_ERROR_NOT_READY);
  EXPECT_EQUAL(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
  int polls = 0;
  while (cuEventQuery(event) == CUDA_ERROR_NOT_READY) ++polls;
  EXPECT_EQUAL(polls, 2);
  SUCCEED(cuStreamQuery(stream));
}

TEST("elapsed time wants two recorded, reached events with timing") {
  const Session session;
  const CUstream stream = newStream();
  const CUevent start = newEvent();
  const CUevent end = newEvent();
  const CUevent untimed = newEvent(CU_EVENT_DISABLE_TIMING);
  float milliseconds = -1;
  EXPECT_EQUAL(cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_INVALID_HANDLE);
  SUCCEED(cuEventRecord(start, stream));
  SUCCEED(cuEventRecord(end, stream));
  SUCCEED(cuEventRecord(untimed, stream));
  EXPECT_EQUAL(cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_NOT_READY);
  SUCCEED(cuEventSynchronize(end));
  SUCCEED(cuEventElapsedTime(&milliseconds, start, end));
  EXPECT(milliseconds >= 0 && milliseconds < 1000);
  EXPECT_EQUAL(cuEventElapsedTime(&milliseconds, start, untimed), CUDA_ERROR_INVALID_HANDLE);
}

TEST("host functions run in stream order and must not call the driver") {
  const Session session;
  const CUstream stream = newStream();
  Recorder recorder;
  SUCCEED(cuLaunchHostFunc(stream, recordOne, &recorder));
  SUCCEED(cuLaunchHostFunc(stream, recordTwo, &recorder));
  SUCCEED(cuLaunchHostFunc(stream, callDriver, &recorder));
  EXPECT(recorder.order.empty());
  SUCCEED(cuStreamSynchronize(stream));
  EXPECT(recorder.order == (std::vector<int>{1, 2}));
  EXPECT_EQUAL(recorder.inside.size(), std::size_t{1});
  EXPECT_EQUAL(recorder.inside[0], CUDA_ERROR_NOT_PERMITTED);
}

TEST("a destroyed stream still finishes its work") {
  const Session session;
  const CUstream stream = newStream();
  const DeviceArray<int> data(1);
  SUCCEED(cuMemsetD32Async(data.address(), 3, 1, stream));
  SUCCEED(cuStreamDestroy_v2(stream));
  SUCCEED(cuCtxSynchronize());
  EXPECT_EQUAL(data.download()[0], 3);
}

TEST("memory freed in stream order is gone for later work, which faults") {
  const Session session;
  const CUstream first = newStream();
  const CUstream second = newStream();
  CUdeviceptr address = 0;
  SUCCEED(cuMemAllocAsync(&address, 4, first));
  SUCCEED(cuMemsetD32Async(address, 1, 1, second));
  SUCCEED(cuMemFreeAsync(address, first));
  SUCCEED(cuStreamSynchronize(first));
  EXPECT_EQUAL(cuStreamSynchronize(second), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQUAL(session.reports().back().string("kind"), "use-after-free");
}

TEST("freeing memory waits for the work that uses it") {
  const Session session;
  const CUstream stream = newStream();
  CUdeviceptr address = 0;
  int host = 0;
  SUCCEED(cuMemAlloc_v2(&address, 4));
  SUCCEED(cuMemsetD32Async(address, 8, 1, stream));
  SUCCEED(cuMemcpyDtoHAsync_v2(&host, address, 4, stream));
  SUCCEED(cuMemFree_v2(address));
  EXPECT_EQUAL(host, 8);
}

TEST("a captured graph runs nothing until it is launched, then as often as it is") {
  const Session session;
  const CUstream stream = newStream();
  const DeviceArray<int> data(std::vector<int>{0, 0});
  const Program program(incrementPtx);
  CUgraph graph = nullptr;
  CUgraphExec executable = nullptr;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  SUCCEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  SUCCEED(cuStreamIsCapturing(stream, &status));
  EXPECT_EQUAL(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
  SUCCEED(launchOn(stream, program.function("increment"), {1, 32}, data.address(), 1u));
  SUCCEED(cuMemcpyDtoDAsync_v2(data.address() + 4, data.address(), 4, stream));
  SUCCEED(cuStreamEndCapture(stream, &graph));
  SUCCEED(cuGraphInstantiateWithFlags(&executable, graph, 0));
  SUCCEED(cuGraphDestroy(graph));
  SUCCEED(cuStreamSynchronize(stream));
  EXPECT(data.download() == (std::vector<int>{0, 0}));
  for (int i = 0; i < 3; ++i) SUCCEED(cuGraphLaunch(executable, stream));
  SUCCEED(cuStreamSynchronize(stream));
  EXPECT(data.download() == (std::vector<int>{3, 3}));
  SUCCEED(cuGraphExecDestroy(executable));
  EXPECT_EQUAL(cuGraphLaunch(executable, stream), CUDA_ERROR_INVALID_HANDLE);
}

TEST("capture follows events into another stream, which must be joined again") {
  for (const bool join : {true, false}) {
    const Session session;
    const CUstream stream = newStream();
    const CUstream branch = newStream();
    const CUevent fork = newEvent();
    const CUevent joined = newEvent();
    const DeviceArray<int> data(std::vector<int>{0, 0});
    CUgraph graph = nullptr;
    CUgraphExec executable = nullptr;
    SUCCEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    SUCCEED(cuEventRecord(fork, stream));
    SUCCEED(cuStreamWaitEvent(branch, fork, 0));
    SUCCEED(cuMemsetD32Async(data.address(), 1, 1, branch));
    SUCCEED(cuMemsetD32Async(data.address() + 4, 2, 1, stream));
    SUCCEED(cuEventRecord(joined, branch));
    if (join) SUCCEED(cuStreamWaitEvent(stream, joined, 0));
    const CUresult ended = cuStreamEndCapture(stream, &graph);
    EXPECT_EQUAL(ended, join ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    EXPECT_EQUAL(cuEventQuery(joined), CUDA_ERROR_CAPTURED_EVENT);
    if (!join) continue;
    SUCCEED(cuGraphInstantiateWithFlags(&executable, graph, 0));
    SUCCEED(cuGraphLaunch(executable, branch));
    SUCCEED(cuStreamSynchronize(branch));
    EXPECT(data.download() == (std::vector<int>{1, 2}));
  }
}

TEST("calls that wait are forbidden during capture and spoil it") {
  const Session session;
  const CUstream stream = newStream();
  const DeviceArray<int> data(1);
  CUgraph graph = nullptr;
  CUdeviceptr address = 0;
  SUCCEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  EXPECT_EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQUAL(cuMemsetD32Async(data.address(), 1, 1, stream), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  EXPECT_EQUAL(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  SUCCEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  EXPECT_EQUAL(cuMemAlloc_v2(&address, 4), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQUAL(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  SUCCEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  SUCCEED(cuMemAlloc_v2(&address, 4));
  SUCCEED(cuStreamEndCapture(stream, &graph));
  EXPECT_EQUAL(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
  captureFill(stream, &graph, data.address(), 4);
}

TEST("with a background thread work runs though nobody waits") {
  const Session session(Environment{{"ASYNC", "thread"}});
  const CUstream stream = newStream();
  std::mutex mutex;
  std::condition_variable changed;
  struct Shared {
    std::mutex& mutex;
    std::condition_variable& changed;
    bool called = false;
  } shared{mutex, changed};
  const auto notify = [](void* data) {
    Shared& target = *static_cast<Shared*>(data);
    const std::lock_guard<std::mutex> lock(target.mutex);
    target.called = true;
    target.changed.notify_all();
  };
  SUCCEED(cuLaunchHostFunc(stream, notify, &shared));
  std::unique_lock<std::mutex> lock(mutex);
  EXPECT(changed.wait_for(lock, std::chrono::seconds(20), [&] { return shared.called; }));
}

TEST("with a background thread results, events and frees are right as well") {
  const Session session(Environment{{"ASYNC", "thread"}});
  const Program program(incrementPtx);
  const CUfunction increment = program.function("increment");
  const CUstream first = newStream();
  const CUstream second = newStream();
  const CUevent event = newEvent();
  const DeviceArray<int> data(std::vector<int>(100, 0));
  for (int round = 0; round < 20; ++round) {
    SUCCEED(launchOn(first, increment, {4, 32}, data.address(), 100u));
    SUCCEED(cuEventRecord(event, first));
    SUCCEED(cuStreamWaitEvent(second, event, 0));
    SUCCEED(launchOn(second, increment, {4, 32}, data.address(), 100u));
    SUCCEED(cuEventRecord(event, second));
    SUCCEED(cuStreamWaitEvent(first, event, 0));
    CUdeviceptr scratch = 0;
    SUCCEED(cuMemAllocAsync(&scratch, 1000, second));
    SUCCEED(cuMemFreeAsync(scratch, second));
  }
  SUCCEED(cuStreamSynchronize(first));
  EXPECT(data.download() == std::vector<int>(100, 40));
}

TEST("several host threads use streams of their own at once") {
  for (const char* const mode : {"deferred", "thread"}) {
    const Session session(Environment{{"ASYNC", mode}});
    const Program program(incrementPtx);
    const CUfunction increment = program.function("increment");
    std::atomic<int> right{0};
    const auto work = [&] {
      try {
        SUCCEED(cuCtxSetCurrent(session.context));
        const CUstream stream = newStream();
        const DeviceArray<int> data(std::vector<int>(40, 1));
        std::vector<int> host(40);
        for (int round = 0; round < 25; ++round)
          SUCCEED(launchOn(stream, increment, {2, 32}, data.address(), 40u));
        SUCCEED(cuMemcpyDtoHAsync_v2(host.data(), data.address(), data.bytes(), stream));
        SUCCEED(cuStreamSynchronize(stream));
        if (host == std::vector<int>(40, 26)) ++right;
      } catch (const std::exception&) {
      }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQUAL(right.load(), 4);
  }
}
