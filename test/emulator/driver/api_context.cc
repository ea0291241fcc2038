// Exported functions: primary contexts and the calling thread's stack of current ones.
#include "cuda_api.h"
#include "driver.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

CUresult cuDevicePrimaryCtxRetain(CUcontext* handle, CUdevice device) {
  return driverCall("cuDevicePrimaryCtxRetain", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!handle) return CUDA_ERROR_INVALID_VALUE;
    driver.checkDevice(device);
    auto& context = driver.primaryContexts[device];
    if (!context) {
      context = std::make_shared<Context>();
      context->device = device;
      context->memory = std::make_shared<ptxemu::Memory>();
      context->legacy = driver.executor.createStream(*context, CU_STREAM_DEFAULT, 0, true);
      context->handle = driver.contexts.add(context);
    }
    ++context->references;
    *handle = context->handle;
    return CUDA_SUCCESS;
  });
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return driverCall("cuDevicePrimaryCtxRelease_v2", Needs::driver, [&](Driver& driver, DriverLock& lock) {
    driver.checkDevice(device);
    const auto found = driver.primaryContexts.find(device);
    if (found == driver.primaryContexts.end()) return CUDA_ERROR_INVALID_CONTEXT;
    const std::shared_ptr<Context> context = found->second;
    if (--context->references == 0) driver.destroyContext(lock, *context);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxSetCurrent(CUcontext handle) {
  return driverCall("cuCtxSetCurrent", Needs::driver, [&](Driver& driver, DriverLock&) {
    auto& stack = Driver::contextStack();
    if (handle && !driver.contexts.find(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    if (!stack.empty()) stack.pop_back();
    if (handle) stack.push_back(handle);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetCurrent(CUcontext* handle) {
  return driverCall("cuCtxGetCurrent", Needs::driver, [&](Driver&, DriverLock&) {
    if (!handle) return CUDA_ERROR_INVALID_VALUE;
    const auto& stack = Driver::contextStack();
    *handle = stack.empty() ? nullptr : stack.back();
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxPushCurrent_v2(CUcontext handle) {
  return driverCall("cuCtxPushCurrent_v2", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!driver.contexts.find(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    Driver::contextStack().push_back(handle);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxPopCurrent_v2(CUcontext* handle) {
  return driverCall("cuCtxPopCurrent_v2", Needs::driver, [&](Driver&, DriverLock&) {
    auto& stack = Driver::contextStack();
    if (stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (handle) *handle = stack.back();
    stack.pop_back();
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetDevice(CUdevice* device) {
  return contextCall("cuCtxGetDevice", [&](Driver&, DriverLock&, Context& context) {
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = context.device;
    return CUDA_SUCCESS;
  });
}
