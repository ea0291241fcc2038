// Exported functions: device memory, stream-ordered memory and its pool, pinned host memory.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "capture.h"
#include "cuda_api.h"
#include "driver.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

namespace {

constexpr std::uintptr_t firstPoolHandle = 0x900100;
constexpr std::size_t allocationGranularity = 512;
constexpr std::size_t hostPageBytes = 4096;

CUmemoryPool poolOf(int device) {
  return reinterpret_cast<CUmemoryPool>(firstPoolHandle + static_cast<std::uintptr_t>(device) * 16);
}

Context& contextOfPool(Driver& driver, CUmemoryPool pool) {
  for (const auto& [device, context] : driver.primaryContexts)
    if (poolOf(device) == pool) return *context;
  throw DriverError(CUDA_ERROR_INVALID_HANDLE, "no such memory pool");
}

std::size_t accounted(std::size_t bytes) {
  return (bytes + allocationGranularity - 1) / allocationGranularity * allocationGranularity;
}

CUdeviceptr allocate(Driver& driver, DriverLock& lock, Context& context, std::size_t bytes) {
  const auto fits = [&] {
    return bytes <= driver.settings.memoryBytes &&
           context.blockBytes + accounted(bytes) <= driver.settings.memoryBytes;
  };
  if (!fits()) driver.executor.finishAll(lock, context);  // frees that are queued may make room
  require(fits(), CUDA_ERROR_OUT_OF_MEMORY, "the emulated device has no memory left");
  driver.executor.waitForRunningPiece(lock);
  const CUdeviceptr address = context.memory->allocate(bytes);
  require(address != 0, CUDA_ERROR_OUT_OF_MEMORY, "the host has no memory left");
  context.blocks[address] = {bytes, false};
  context.blockBytes += accounted(bytes);
  context.peakBytes = std::max(context.peakBytes, context.blockBytes);
  return address;
}

void release(Context& context, CUdeviceptr address) {
  const auto found = context.blocks.find(address);
  if (found == context.blocks.end()) return;
  context.blockBytes -= accounted(found->second.bytes);
  context.blocks.erase(found);
  context.memory->free(address);
}

// The block that starts at the address; says what is wrong where none may be freed.
DeviceBlock& blockToFree(Driver& driver, Context& context, CUdeviceptr address) {
  const auto found = context.blocks.find(address);
  if (found != context.blocks.end() && !found->second.freeQueued) return found->second;
  if (found != context.blocks.end() || context.memory->findFreed(address)) {
    driver.report("double-free", "device memory is freed twice", address);
  } else {
    driver.report("invalid-free", "the address to free is not the start of an allocation", address);
  }
  throw DriverError(CUDA_ERROR_INVALID_VALUE, "the address to free is not that of a live allocation");
}

bool isHostBlock(const Context& context, void* address, bool registered) {
  const auto found = context.hostBlocks.find(address);
  return found != context.hostBlocks.end() && (found->second.owned == nullptr) == registered;
}

}  // namespace

CUresult cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
  const auto body = [&](Driver& driver, DriverLock& lock, Context& context) {
    if (!address || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    forbidWhileCapturing(driver);
    *address = allocate(driver, lock, context, bytes);
    return CUDA_SUCCESS;
  };
  return contextCall("cuMemAlloc_v2", body, "alloc");
}

CUresult cuMemAllocAsync(CUdeviceptr* address, std::size_t bytes, CUstream handle) {
  const auto body = [&](Driver& driver, DriverLock& lock, Context& context) {
    if (!address || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    require(!driver.stream(context, handle)->capture, CUDA_ERROR_NOT_SUPPORTED,
            "memory that a graph allocates is not emulated");
    *address = allocate(driver, lock, context, bytes);
    return CUDA_SUCCESS;
  };
  return contextCall("cuMemAllocAsync", body, "alloc");
}

// Waits for all work of the context, as the real one does.
CUresult cuMemFree_v2(CUdeviceptr address) {
  const auto body = [&](Driver& driver, DriverLock& lock, Context& context) {
    if (address == 0) return CUDA_SUCCESS;
    forbidWhileCapturing(driver);
    driver.executor.finishAll(lock, context);
    driver.executor.waitForRunningPiece(lock);
    blockToFree(driver, context, address);
    release(context, address);
    return CUDA_SUCCESS;
  };
  return contextCall("cuMemFree_v2", body, nullptr, Needs::release);
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  const auto body = [&](Driver& driver, DriverLock& lock, Context& context) {
    const std::shared_ptr<Stream> stream = driver.stream(context, handle);
    if (address == 0) return CUDA_SUCCESS;
    require(!stream->capture, CUDA_ERROR_NOT_SUPPORTED, "memory that a graph frees is not emulated");
    DeviceBlock& block = blockToFree(driver, context, address);
    if (context.fault != CUDA_SUCCESS) {  // nothing runs any more
      driver.executor.waitForRunningPiece(lock);
      release(context, address);
      return context.fault;
    }
    block.freeQueued = true;
    enqueue(driver, *stream, "cuMemFreeAsync", [&driver, &context, address] {
      const DriverLock inner(driver.mutex);
      release(context, address);
      return CUDA_SUCCESS;
    });
    return CUDA_SUCCESS;
  };
  return contextCall("cuMemFreeAsync", body, nullptr, Needs::release);
}

CUresult cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  return contextCall("cuMemGetInfo_v2", [&](Driver& driver, DriverLock&, Context& context) {
    if (!free || !total) return CUDA_ERROR_INVALID_VALUE;
    *total = driver.settings.memoryBytes;
    *free = driver.settings.memoryBytes - context.blockBytes;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device) {
  return driverCall("cuDeviceGetDefaultMemPool", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    driver.checkDevice(device);
    *pool = poolOf(device);
    return CUDA_SUCCESS;
  });
}

// The emulated pool gives everything back at once, so its reuse policies are accepted and have no effect.
CUresult cuMemPoolSetAttribute(CUmemoryPool pool, int attribute, void* value) {
  return driverCall("cuMemPoolSetAttribute", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    Context& context = contextOfPool(driver, pool);
    switch (attribute) {
      case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
      case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
      case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        return CUDA_SUCCESS;
      case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        std::memcpy(&context.poolReleaseThreshold, value, sizeof context.poolReleaseThreshold);
        return CUDA_SUCCESS;
      case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
      case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        context.peakBytes = context.blockBytes;
        return CUDA_SUCCESS;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  });
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, int attribute, void* value) {
  return driverCall("cuMemPoolGetAttribute", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    const Context& context = contextOfPool(driver, pool);
    std::uint64_t answer = 0;
    switch (attribute) {
      case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        answer = context.poolReleaseThreshold;
        break;
      case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
      case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        answer = context.blockBytes;
        break;
      case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
      case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        answer = context.peakBytes;
        break;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    std::memcpy(value, &answer, sizeof answer);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, std::size_t) {
  return driverCall("cuMemPoolTrimTo", Needs::driver, [&](Driver& driver, DriverLock&) {
    contextOfPool(driver, pool);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemHostAlloc(void** address, std::size_t bytes, unsigned flags) {
  return contextCall("cuMemHostAlloc", [&](Driver& driver, DriverLock& lock, Context& context) {
    if (!address || bytes == 0 || flags > 7) return CUDA_ERROR_INVALID_VALUE;
    forbidWhileCapturing(driver);
    const std::size_t rounded = (bytes + hostPageBytes - 1) / hostPageBytes * hostPageBytes;
    *address = std::aligned_alloc(hostPageBytes, rounded);
    if (!*address) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*address, 0xFF, bytes);  // a NaN shows that nobody wrote it
    context.hostBlocks[*address] = {bytes, std::shared_ptr<void>(*address, &std::free)};
    // Kernels reach page-locked memory by the address that the host uses.
    driver.executor.waitForRunningPiece(lock);
    context.memory->adopt(*address, bytes);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemFreeHost(void* address) {
  const auto body = [&](Driver& driver, DriverLock& lock, Context& context) {
    if (!address) return CUDA_SUCCESS;
    if (!isHostBlock(context, address, false)) return CUDA_ERROR_INVALID_VALUE;
    driver.executor.finishAll(lock, context);  // copies may still use it
    driver.executor.waitForRunningPiece(lock);
    context.memory->free(reinterpret_cast<CUdeviceptr>(address));
    context.hostBlocks.erase(address);
    return CUDA_SUCCESS;
  };
  return contextCall("cuMemFreeHost", body, nullptr, Needs::release);
}

CUresult cuMemHostRegister_v2(void* address, std::size_t bytes, unsigned flags) {
  return contextCall("cuMemHostRegister_v2", [&](Driver&, DriverLock&, Context& context) {
    if (!address || bytes == 0 || flags > 15) return CUDA_ERROR_INVALID_VALUE;
    const char* begin = static_cast<const char*>(address);
    for (const auto& [other, block] : context.hostBlocks) {
      const char* otherBegin = static_cast<const char*>(other);
      if (begin < otherBegin + block.bytes && otherBegin < begin + bytes)
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    }
    context.hostBlocks[address] = {bytes, nullptr};
    return CUDA_SUCCESS;
  });
}

CUresult cuMemHostUnregister(void* address) {
  const auto body = [&](Driver& driver, DriverLock& lock, Context& context) {
    if (!address) return CUDA_ERROR_INVALID_VALUE;
    if (!isHostBlock(context, address, true)) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    driver.executor.finishAll(lock, context);
    context.hostBlocks.erase(address);
    return CUDA_SUCCESS;
  };
  return contextCall("cuMemHostUnregister", body, nullptr, Needs::release);
}
