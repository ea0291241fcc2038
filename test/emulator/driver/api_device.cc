// Exported functions: initialisation, version, error texts, devices.
#include <dlfcn.h>

#include <cstring>

#include "cuda_api.h"
#include "device_properties.h"
#include "driver.h"
#include "result_names.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

namespace {

const char deviceName[] = "Emulated CUDA device (CPU)";

int attributeValue(const Settings& settings, int attribute) {
  const DeviceProperties properties = deviceProperties(settings);
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      return sharedPerBlockDefault;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
      return 65536;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      return 32;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
      return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
      return registersPerMultiprocessor;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      return properties.clockKilohertz;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
      return 512;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return properties.multiprocessors;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
      return 1;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      return properties.memoryClockKilohertz;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      return properties.memoryBusBits;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      return properties.l2Bytes;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return properties.threadsPerMultiprocessor;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      return 2;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return settings.computeMajor;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return settings.computeMinor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      return properties.sharedPerMultiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return properties.sharedPerBlockOptIn;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
      return properties.blocksPerMultiprocessor;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
      return sharedReservedPerBlock;
    case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED:
      return settings.computeMajor >= 9;
    default:
      return 0;
  }
}

// The exported function of a name without its version suffix: the newest that is there.
void* exportedFunction(const std::string& symbol) {
  Dl_info self{};
  if (!dladdr(deviceName, &self)) return nullptr;
  void* library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  if (!library) return nullptr;
  void* found = nullptr;
  for (const char* suffix : {"_v3", "_v2", ""}) {
    found = dlsym(library, (symbol + suffix).c_str());
    Dl_info owner{};
    if (found && dladdr(found, &owner) && owner.dli_fbase == self.dli_fbase) break;
    found = nullptr;
  }
  dlclose(library);
  return found;
}

}  // namespace

CUresult cuInit(unsigned flags) {
  return driverCall("cuInit", Needs::nothing, [&](Driver& driver, DriverLock&) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (driver.settings.devices == 0) return CUDA_ERROR_NO_DEVICE;
    driver.initialised = true;
    return CUDA_SUCCESS;
  });
}

CUresult cuDriverGetVersion(int* version) {
  return driverCall("cuDriverGetVersion", Needs::nothing, [&](Driver& driver, DriverLock&) {
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    *version = driver.settings.driverVersion;
    return CUDA_SUCCESS;
  });
}

CUresult cuGetProcAddress_v2(const char* symbol, void** function, int cudaVersion, std::uint64_t flags,
                             int* status) {
  return driverCall("cuGetProcAddress_v2", Needs::nothing, [&](Driver& driver, DriverLock&) {
    if (!symbol || !function || flags > 2) return CUDA_ERROR_INVALID_VALUE;
    *function = exportedFunction(symbol);
    const bool versionTooNew = cudaVersion > driver.settings.driverVersion;
    if (versionTooNew) *function = nullptr;
    if (status) *status = *function ? 0 : versionTooNew ? 2 : 1;
    return *function || status ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
  });
}

CUresult cuGetErrorName(CUresult code, const char** text) {
  return driverCall("cuGetErrorName", Needs::nothing, [&](Driver&, DriverLock&) {
    if (!text) return CUDA_ERROR_INVALID_VALUE;
    const ResultName* entry = resultName(code);
    *text = entry ? entry->name : nullptr;
    return entry ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult cuGetErrorString(CUresult code, const char** text) {
  return driverCall("cuGetErrorString", Needs::nothing, [&](Driver&, DriverLock&) {
    if (!text) return CUDA_ERROR_INVALID_VALUE;
    const ResultName* entry = resultName(code);
    *text = entry ? entry->sentence : nullptr;
    return entry ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult cuDeviceGetCount(int* count) {
  return driverCall("cuDeviceGetCount", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = driver.settings.devices;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return driverCall("cuDeviceGet", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    driver.checkDevice(ordinal);
    *device = ordinal;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  return driverCall("cuDeviceGetName", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!name || length <= 0) return CUDA_ERROR_INVALID_VALUE;
    driver.checkDevice(device);
    std::strncpy(name, deviceName, static_cast<std::size_t>(length));
    name[length - 1] = '\0';
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  return driverCall("cuDeviceGetAttribute", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!value || attribute <= 0 || attribute > CU_DEVICE_ATTRIBUTE_LAST_KNOWN)
      return CUDA_ERROR_INVALID_VALUE;
    driver.checkDevice(device);
    *value = attributeValue(driver.settings, attribute);
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
  return driverCall("cuDeviceTotalMem_v2", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    driver.checkDevice(device);
    *bytes = driver.settings.memoryBytes;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  return driverCall("cuDeviceGetUuid_v2", Needs::driver, [&](Driver& driver, DriverLock&) {
    if (!uuid) return CUDA_ERROR_INVALID_VALUE;
    driver.checkDevice(device);
    std::memcpy(uuid->bytes, "emulated-device", sizeof uuid->bytes);
    uuid->bytes[15] = static_cast<char>(device);
    return CUDA_SUCCESS;
  });
}

// Not of CUDA: forgets everything and reads the environment again, so that one test program can try many.
void emulatedDriverReset() { Driver::reset(); }
