// Exported functions: kernel launches.
#include "capture.h"
#include "cuda_api.h"
#include "driver.h"
#include "kernel_launch.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

namespace {

void applyAttributes(const CUlaunchConfig& config, KernelLaunch& launch) {
  require(config.numAttrs == 0 || config.attrs, CUDA_ERROR_INVALID_VALUE, "the launch attributes are null");
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    const auto& cluster = attribute.value.clusterDim;
    switch (attribute.id) {
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        launch.cooperative = attribute.value.cooperative != 0;
        break;
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        require(cluster.x == 1 && cluster.y == 1 && cluster.z == 1, CUDA_ERROR_NOT_SUPPORTED,
                "clusters of several blocks are not emulated");
        break;
      // Hints about time, which nothing here has. A kernel launched ahead of its predecessor's end still runs
      // after it.
      case CU_LAUNCH_ATTRIBUTE_IGNORE:
      case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
      case CU_LAUNCH_ATTRIBUTE_PRIORITY:
      case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
      case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        break;
      default:
        throw DriverError(CUDA_ERROR_NOT_SUPPORTED, "the launch attribute is not emulated");
    }
  }
}

CUresult launchCall(const char* name, const CUlaunchConfig* config, CUfunction handle, void** kernelParams,
                    void** extra) {
  const auto body = [&](Driver& driver, DriverLock&, Context& context) {
    if (!config) return CUDA_ERROR_INVALID_VALUE;
    KernelLaunch launch;
    launch.function = driver.functions.get(handle);
    require(launch.function->module->context == &context, CUDA_ERROR_INVALID_HANDLE,
            "the function belongs to another context");
    launch.grid = {config->gridDimX, config->gridDimY, config->gridDimZ};
    launch.block = {config->blockDimX, config->blockDimY, config->blockDimZ};
    launch.dynamicShared = config->sharedMemBytes;
    applyAttributes(*config, launch);
    checkLaunch(driver.settings, launch);
    launch.parameters = packParameters(*launch.function->kernel, kernelParams, extra);
    enqueue(driver, *driver.stream(context, config->hStream), name,
            [&driver, memory = context.memory, launch = std::move(launch)] {
              return runLaunch(driver, *memory, launch);
            });
    return CUDA_SUCCESS;
  };
  return contextCall(name, body, "launch");
}

}  // namespace

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** kernelParams,
                          void** extra) {
  return launchCall("cuLaunchKernelEx", config, function, kernelParams, extra);
}

CUresult cuLaunchKernel(CUfunction function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                        unsigned blockY, unsigned blockZ, unsigned sharedBytes, CUstream stream,
                        void** kernelParams, void** extra) {
  const CUlaunchConfig config{gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes, stream, nullptr, 0};
  return launchCall("cuLaunchKernel", &config, function, kernelParams, extra);
}
