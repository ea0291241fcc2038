// Exported functions: modules, libraries, functions, global variables.
#include <algorithm>
#include <cstdio>

#include "cuda_api.h"
#include "device_properties.h"
#include "driver.h"
#include "module_image.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

namespace {

// The program's buffer for compiler messages, if it gave one.
void writeJitLog(unsigned count, const int* options, void** values, const std::string& message) {
  char* buffer = nullptr;
  std::size_t size = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER) buffer = static_cast<char*>(values[i]);
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) size = reinterpret_cast<std::uintptr_t>(values[i]);
  }
  if (buffer && size > 0) std::snprintf(buffer, size, "%s", message.c_str());
}

std::shared_ptr<Module> loadModule(Driver& driver, DriverLock& lock, Context& context, const void* image) {
  driver.executor.waitForRunningPiece(lock);  // device memory must not change under a kernel
  const Settings& settings = driver.settings;
  const ModuleImage chosen =
      selectPtx(image, settings.computeMajor, settings.computeMinor, settings.driverVersion);
  auto module = std::make_shared<Module>();
  module->context = &context;
  module->memory = context.memory;
  module->target = chosen.target;
  try {
    module->code = ptxemu::Module::parse(chosen.ptx, *context.memory);
  } catch (const ptxemu::ParseError& error) {
    throw DriverError(CUDA_ERROR_INVALID_PTX, error.what());
  }
  return module;
}

CUresult loadModuleCall(const char* name, CUmodule* handle, const void* image, unsigned optionCount,
                        const int* options, void** values) {
  return contextCall(name, [&](Driver& driver, DriverLock& lock, Context& context) {
    if (!handle || !image || (optionCount > 0 && (!options || !values))) return CUDA_ERROR_INVALID_VALUE;
    try {
      *handle = driver.modules.add(loadModule(driver, lock, context, image));
    } catch (const DriverError& error) {
      writeJitLog(optionCount, options, values, error.what());
      driver.report("module-load", error.what());
      throw;
    }
    return CUDA_SUCCESS;
  });
}

CUresult functionOf(Driver& driver, CUmodule handle, const char* name, CUfunction* function) {
  const std::shared_ptr<Module> module = driver.modules.get(handle);
  const ptxemu::Kernel* kernel = module->code->kernel(name);
  if (!kernel) return CUDA_ERROR_NOT_FOUND;
  CUfunction& known = module->functions[name];
  if (!known)
    known = driver.functions.add(std::make_shared<Function>(
        Function{module, kernel, sharedPerBlockDefault - static_cast<int>(kernel->staticShared), -1}));
  *function = known;
  return CUDA_SUCCESS;
}

void unload(Driver& driver, DriverLock& lock, CUmodule handle) {
  driver.executor.waitForRunningPiece(lock);
  const std::shared_ptr<Module> module = driver.modules.take(handle);
  driver.functions.removeIf([&](const Function& function) { return function.module == module; });
}

int maxThreads(const Function& function) {
  return function.kernel->maxThreads ? static_cast<int>(function.kernel->maxThreads) : 1024;
}

// What a register allocator would have to find at least, in the steps in which registers are given out.
int registersPerThread(const Function& function) {
  const int needed = static_cast<int>(function.kernel->registers);
  return needed < 16 ? 16 : needed > 255 ? 255 : (needed + 7) / 8 * 8;
}

}  // namespace

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  return loadModuleCall("cuModuleLoadData", module, image, 0, nullptr, nullptr);
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned optionCount, int* options,
                            void** values) {
  return loadModuleCall("cuModuleLoadDataEx", module, image, optionCount, options, values);
}

CUresult cuModuleUnload(CUmodule handle) {
  const auto body = [&](Driver& driver, DriverLock& lock, Context&) {
    unload(driver, lock, handle);
    return CUDA_SUCCESS;
  };
  return contextCall("cuModuleUnload", body, nullptr, Needs::release);
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  return contextCall("cuModuleGetFunction", [&](Driver& driver, DriverLock&, Context&) {
    if (!function || !name || !*name) return CUDA_ERROR_INVALID_VALUE;
    return functionOf(driver, module, name, function);
  });
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, std::size_t* bytes, CUmodule handle, const char* name) {
  return contextCall("cuModuleGetGlobal_v2", [&](Driver& driver, DriverLock&, Context&) {
    if (!name || !*name) return CUDA_ERROR_INVALID_VALUE;
    const ptxemu::Memory::Allocation* variable = driver.modules.get(handle)->code->global(name);
    if (!variable) return CUDA_ERROR_NOT_FOUND;
    if (address) *address = variable->address;
    if (bytes) *bytes = variable->bytes;
    return CUDA_SUCCESS;
  });
}

// A library is a module that is loaded at once; library options are accepted and have no effect.
CUresult cuLibraryLoadData(CUlibrary* library, const void* image, int* jitOptions, void** jitValues,
                           unsigned jitCount, int*, void**, unsigned) {
  return loadModuleCall("cuLibraryLoadData", reinterpret_cast<CUmodule*>(library), image, jitCount,
                        jitOptions, jitValues);
}

CUresult cuLibraryUnload(CUlibrary library) {
  const auto body = [&](Driver& driver, DriverLock& lock, Context&) {
    unload(driver, lock, reinterpret_cast<CUmodule>(library));
    return CUDA_SUCCESS;
  };
  return contextCall("cuLibraryUnload", body, nullptr, Needs::release);
}

// A kernel handle of a library can be launched as a function handle can; here they are the same.
CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  return contextCall("cuLibraryGetKernel", [&](Driver& driver, DriverLock&, Context&) {
    if (!kernel || !name || !*name) return CUDA_ERROR_INVALID_VALUE;
    return functionOf(driver, reinterpret_cast<CUmodule>(library), name,
                      reinterpret_cast<CUfunction*>(kernel));
  });
}

CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  return contextCall("cuKernelGetFunction", [&](Driver& driver, DriverLock&, Context&) {
    if (!function) return CUDA_ERROR_INVALID_VALUE;
    *function = reinterpret_cast<CUfunction>(kernel);
    driver.functions.get(*function);
    return CUDA_SUCCESS;
  });
}

CUresult cuFuncGetAttribute(int* value, int attribute, CUfunction handle) {
  return contextCall("cuFuncGetAttribute", [&](Driver& driver, DriverLock&, Context&) {
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    const std::shared_ptr<Function> function = driver.functions.get(handle);
    switch (attribute) {
      case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = maxThreads(*function);
        break;
      case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = static_cast<int>(function->kernel->staticShared);
        break;
      case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
        *value = static_cast<int>(function->kernel->constantBytes);
        break;
      case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *value = static_cast<int>(function->kernel->localBytes);
        break;
      case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = registersPerThread(*function);
        break;
      case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        *value = function->module->code->smVersion();
        break;
      case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = driver.settings.computeMajor * 10 + driver.settings.computeMinor;
        break;
      case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = function->maxDynamicShared;
        break;
      case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        *value = function->sharedCarveout;
        break;
      case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
        *value = 0;
        break;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
  });
}

CUresult cuFuncSetAttribute(CUfunction handle, int attribute, int value) {
  return contextCall("cuFuncSetAttribute", [&](Driver& driver, DriverLock&, Context&) {
    const std::shared_ptr<Function> function = driver.functions.get(handle);
    if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
      if (value < -1 || value > 100) return CUDA_ERROR_INVALID_VALUE;
      function->sharedCarveout = value;
      return CUDA_SUCCESS;
    }
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
    const int limit = deviceProperties(driver.settings).sharedPerBlockOptIn;
    if (value < 0 || value + static_cast<int>(function->kernel->staticShared) > limit)
      return CUDA_ERROR_INVALID_VALUE;
    function->maxDynamicShared = value;
    return CUDA_SUCCESS;
  });
}

// The blocks that fit by threads, shared memory and the least registers the kernel can do with.
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle, int blockSize,
                                                     std::size_t dynamicShared) {
  const char* const name = "cuOccupancyMaxActiveBlocksPerMultiprocessor";
  return contextCall(name, [&](Driver& driver, DriverLock&, Context&) {
    if (!blocks || blockSize <= 0) return CUDA_ERROR_INVALID_VALUE;
    const std::shared_ptr<Function> function = driver.functions.get(handle);
    const DeviceProperties properties = deviceProperties(driver.settings);
    const int threads = (blockSize + 31) / 32 * 32;
    const std::size_t shared = function->kernel->staticShared + dynamicShared + sharedReservedPerBlock;
    const int byThreads = properties.threadsPerMultiprocessor / threads;
    const int byShared =
        static_cast<int>(static_cast<std::size_t>(properties.sharedPerMultiprocessor) / shared);
    const int byRegisters = registersPerMultiprocessor / (registersPerThread(*function) * threads);
    *blocks = std::min({properties.blocksPerMultiprocessor, byThreads, byShared, byRegisters});
    if (blockSize > maxThreads(*function)) *blocks = 0;
    return CUDA_SUCCESS;
  });
}
