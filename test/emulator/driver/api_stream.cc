// Exported functions: streams, events, host functions, waiting.
#include <chrono>

#include "capture.h"
#include "cuda_api.h"
#include "driver.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

namespace {

constexpr int leastPriority = 0;
constexpr int greatestPriority = -5;

double secondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

CUresult createStream(const char* name, CUstream* handle, unsigned flags, int priority) {
  return contextCall(name, [&](Driver& driver, DriverLock&, Context& context) {
    if (!handle || flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    *handle = driver.streams.add(driver.executor.createStream(context, flags, priority, false));
    return CUDA_SUCCESS;
  });
}

std::shared_ptr<Event> eventOf(Driver& driver, Context& context, CUevent handle) {
  auto event = driver.events.get(handle);
  require(event->context == &context, CUDA_ERROR_INVALID_HANDLE, "the event belongs to another context");
  return event;
}

// Throws where the event stands for work of a graph, which never runs by itself.
void requireNotCaptured(const Event& event) {
  if (!event.capture) return;
  event.capture->invalidated = true;
  throw DriverError(CUDA_ERROR_CAPTURED_EVENT, "the event was recorded while its stream was captured");
}

// The answer is the state before the call, so that a program meets "not ready"; the call lets the work go on.
CUresult query(Driver& driver, DriverLock& lock, Stream& stream, std::uint64_t position) {
  if (stream.reached(position)) return CUDA_SUCCESS;
  driver.executor.step(lock, stream, position);
  return CUDA_ERROR_NOT_READY;
}

}  // namespace

CUresult cuStreamCreate(CUstream* handle, unsigned flags) {
  return createStream("cuStreamCreate", handle, flags, leastPriority);
}

CUresult cuStreamCreateWithPriority(CUstream* handle, unsigned flags, int priority) {
  return createStream("cuStreamCreateWithPriority", handle, flags, priority);
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return contextCall("cuCtxGetStreamPriorityRange", [&](Driver&, DriverLock&, Context&) {
    if (least) *least = leastPriority;
    if (greatest) *greatest = greatestPriority;
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamDestroy_v2(CUstream handle) {
  const auto body = [&](Driver& driver, DriverLock&, Context&) {
    const std::shared_ptr<Stream> stream = driver.streams.get(handle);
    forbidWhileCaptured(*stream);
    driver.streams.take(handle);
    driver.executor.destroy(*stream);
    return CUDA_SUCCESS;
  };
  return contextCall("cuStreamDestroy_v2", body, nullptr, Needs::release);
}

CUresult cuStreamSynchronize(CUstream handle) {
  return contextCall("cuStreamSynchronize", [&](Driver& driver, DriverLock& lock, Context& context) {
    const std::shared_ptr<Stream> stream = driver.stream(context, handle);
    forbidWhileCaptured(*stream);
    if (stream->legacy) {  // it stands for all blocking streams
      forbidWhileCapturing(driver);
      enqueue(driver, *stream, "cuStreamSynchronize", {});
    }
    driver.executor.finish(lock, *stream, stream->submitted);
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamQuery(CUstream handle) {
  return contextCall("cuStreamQuery", [&](Driver& driver, DriverLock& lock, Context& context) {
    std::shared_ptr<Stream> stream = driver.stream(context, handle);
    forbidWhileCaptured(*stream);
    if (stream->legacy) stream = driver.executor.unfinishedBlocking(context);
    return stream ? query(driver, lock, *stream, stream->submitted) : CUDA_SUCCESS;
  });
}

CUresult cuCtxSynchronize() {
  return contextCall("cuCtxSynchronize", [&](Driver& driver, DriverLock& lock, Context& context) {
    forbidWhileCapturing(driver);
    driver.executor.finishAll(lock, context);
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent eventHandle, unsigned flags) {
  return contextCall("cuStreamWaitEvent", [&](Driver& driver, DriverLock&, Context& context) {
    if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
    const std::shared_ptr<Stream> stream = driver.stream(context, handle);
    const std::shared_ptr<Event> event = driver.events.get(eventHandle);
    if (!event->recorded) return CUDA_SUCCESS;
    if (event->capture || stream->capture) {
      waitInCapture(driver, stream, *event);
      return CUDA_SUCCESS;
    }
    driver.executor.submit(*stream, {"cuStreamWaitEvent", {}, {event->point}, 0});
    return CUDA_SUCCESS;
  });
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* userData) {
  return contextCall("cuLaunchHostFunc", [&](Driver& driver, DriverLock&, Context& context) {
    if (!function) return CUDA_ERROR_INVALID_VALUE;
    enqueue(driver, *driver.stream(context, handle), "cuLaunchHostFunc", [function, userData] {
      const HostFunctionScope scope;
      function(userData);
      return CUDA_SUCCESS;
    });
    return CUDA_SUCCESS;
  });
}

CUresult cuEventCreate(CUevent* handle, unsigned flags) {
  return contextCall("cuEventCreate", [&](Driver& driver, DriverLock&, Context& context) {
    constexpr unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if (!handle || (flags & ~known) != 0) return CUDA_ERROR_INVALID_VALUE;
    auto event = std::make_shared<Event>();
    event->context = &context;
    event->flags = flags;
    *handle = driver.events.add(std::move(event));
    return CUDA_SUCCESS;
  });
}

CUresult cuEventRecord(CUevent handle, CUstream streamHandle) {
  return contextCall("cuEventRecord", [&](Driver& driver, DriverLock&, Context& context) {
    const std::shared_ptr<Stream> stream = driver.stream(context, streamHandle);
    const std::shared_ptr<Event> event = eventOf(driver, context, handle);
    if (stream->capture) {
      recordInCapture(*stream, *event);
      return CUDA_SUCCESS;
    }
    const auto seconds = std::make_shared<double>(0);
    enqueue(driver, *stream, "cuEventRecord", [seconds] {
      *seconds = secondsNow();
      return CUDA_SUCCESS;
    });
    event->recorded = true;
    event->capture.reset();
    event->seconds = seconds;
    event->point = {stream, stream->submitted};
    return CUDA_SUCCESS;
  });
}

CUresult cuEventQuery(CUevent handle) {
  return contextCall("cuEventQuery", [&](Driver& driver, DriverLock& lock, Context& context) {
    const std::shared_ptr<Event> event = eventOf(driver, context, handle);
    requireNotCaptured(*event);
    if (!event->recorded) return CUDA_SUCCESS;
    const StreamPoint point = event->point;
    return query(driver, lock, *point.stream, point.position);
  });
}

CUresult cuEventSynchronize(CUevent handle) {
  return contextCall("cuEventSynchronize", [&](Driver& driver, DriverLock& lock, Context& context) {
    const std::shared_ptr<Event> event = eventOf(driver, context, handle);
    requireNotCaptured(*event);
    if (!event->recorded) return CUDA_SUCCESS;
    const StreamPoint point = event->point;
    driver.executor.finish(lock, *point.stream, point.position);
    return CUDA_SUCCESS;
  });
}

CUresult cuEventDestroy_v2(CUevent handle) {
  const auto body = [&](Driver& driver, DriverLock&, Context&) {
    driver.events.take(handle);
    return CUDA_SUCCESS;
  };
  return contextCall("cuEventDestroy_v2", body, nullptr, Needs::release);
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent startHandle, CUevent endHandle) {
  return contextCall("cuEventElapsedTime", [&](Driver& driver, DriverLock&, Context& context) {
    if (!milliseconds) return CUDA_ERROR_INVALID_VALUE;
    const std::shared_ptr<Event> start = eventOf(driver, context, startHandle);
    const std::shared_ptr<Event> end = eventOf(driver, context, endHandle);
    for (const auto& event : {start, end}) {
      requireNotCaptured(*event);
      require(event->recorded && (event->flags & CU_EVENT_DISABLE_TIMING) == 0, CUDA_ERROR_INVALID_HANDLE,
              "the event was never recorded, or without timing");
    }
    for (const auto& event : {start, end})
      if (!event->point.stream->reached(event->point.position)) return CUDA_ERROR_NOT_READY;
    *milliseconds = static_cast<float>((*end->seconds - *start->seconds) * 1e3);
    return CUDA_SUCCESS;
  });
}
