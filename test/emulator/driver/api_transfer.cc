// Exported functions: copies and fills. All are queued; the synchronous ones then wait. Host memory is read
// and written when the copy runs, also where a real driver would have staged pageable memory: a program must
// not count on that.
#include "capture.h"
#include "cuda_api.h"
#include "driver.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

namespace {

// Work whose device memory has gone by the time it runs.
CUresult vanished(Driver& driver, const char* name, CUdeviceptr address) {
  driver.report("use-after-free", std::string(name) + " runs after its device memory was freed", address);
  return CUDA_ERROR_ILLEGAL_ADDRESS;
}

CUresult transfer(const char* name, CUdeviceptr first, CUdeviceptr second, std::size_t bytes, bool hostGiven,
                  CUstream handle, bool wait, const std::function<bool(Driver&, ptxemu::Memory&)>& act) {
  return contextCall(name, [&](Driver& driver, DriverLock& lock, Context& context) {
    const std::shared_ptr<Stream> stream = driver.stream(context, handle);
    if (bytes == 0) return CUDA_SUCCESS;
    require(hostGiven, CUDA_ERROR_INVALID_VALUE, "the host address is null");
    require(
        context.memory->contains(first, bytes) && (second == 0 || context.memory->contains(second, bytes)),
        CUDA_ERROR_INVALID_VALUE, "the range lies in no live allocation");
    if (wait) forbidWhileCapturing(driver);
    enqueue(driver, *stream, name, [&driver, &context, name, first, act] {
      return act(driver, *context.memory) ? CUDA_SUCCESS : vanished(driver, name, first);
    });
    if (wait) driver.executor.finish(lock, *stream, stream->submitted);
    return CUDA_SUCCESS;
  });
}

CUresult upload(const char* name, CUdeviceptr target, const void* source, std::size_t bytes, CUstream stream,
                bool wait) {
  return transfer(name, target, 0, bytes, source != nullptr, stream, wait,
                  [=](Driver&, ptxemu::Memory& memory) { return memory.write(target, source, bytes); });
}

CUresult download(const char* name, void* target, CUdeviceptr source, std::size_t bytes, CUstream stream,
                  bool wait) {
  const auto act = [=](Driver& driver, ptxemu::Memory& memory) {
    const std::size_t undefined =
        driver.settings.checks.definedness ? memory.undefinedBytes(source, bytes) : 0;
    if (undefined > 0 && memory.contains(source, bytes))
      driver.report("undefined-copy",
                    std::string(name) + " copies " + std::to_string(undefined) + " of " +
                        std::to_string(bytes) + " bytes that nobody wrote",
                    source);
    return memory.read(target, source, bytes);
  };
  return transfer(name, source, 0, bytes, target != nullptr, stream, wait, act);
}

CUresult fill(const char* name, CUdeviceptr target, std::uint32_t pattern, std::size_t patternBytes,
              std::size_t count, CUstream stream, bool wait) {
  if (target % patternBytes != 0) return CUDA_ERROR_INVALID_VALUE;
  const auto act = [=](Driver&, ptxemu::Memory& memory) {
    return memory.fill(target, pattern, patternBytes, count);
  };
  return transfer(name, target, 0, count * patternBytes, true, stream, wait, act);
}

}  // namespace

CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void* source, std::size_t bytes) {
  return upload("cuMemcpyHtoD_v2", target, source, bytes, nullptr, true);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void* source, std::size_t bytes, CUstream stream) {
  return upload("cuMemcpyHtoDAsync_v2", target, source, bytes, stream, false);
}

CUresult cuMemcpyDtoH_v2(void* target, CUdeviceptr source, std::size_t bytes) {
  return download("cuMemcpyDtoH_v2", target, source, bytes, nullptr, true);
}

CUresult cuMemcpyDtoHAsync_v2(void* target, CUdeviceptr source, std::size_t bytes, CUstream stream) {
  return download("cuMemcpyDtoHAsync_v2", target, source, bytes, stream, false);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, std::size_t bytes, CUstream stream) {
  const auto act = [=](Driver&, ptxemu::Memory& memory) { return memory.copy(target, source, bytes); };
  return transfer("cuMemcpyDtoDAsync_v2", target, source, bytes, true, stream, false, act);
}

CUresult cuMemsetD8_v2(CUdeviceptr target, unsigned char value, std::size_t count) {
  return fill("cuMemsetD8_v2", target, value, 1, count, nullptr, true);
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, std::size_t count, CUstream stream) {
  return fill("cuMemsetD8Async", target, value, 1, count, stream, false);
}

CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, std::size_t count, CUstream stream) {
  return fill("cuMemsetD32Async", target, value, 4, count, stream, false);
}
