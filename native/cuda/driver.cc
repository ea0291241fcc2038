#include "cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

#include "cuda/fatbin.h"

namespace softmoe::cuda {

namespace {

constexpr const char* kDefaultLibrary = "libcuda.so.1";

std::string library_path() {
  const char* path = std::getenv("SOFTMOE_CUDA_DRIVER");
  return path && *path ? path : kDefaultLibrary;
}

template <class Pointer>
void bind(void* library, const char* name, Pointer& pointer) {
  pointer = reinterpret_cast<Pointer>(::dlsym(library, name));
}

void require_version(const Driver& driver) {
  const int needed = softmoe_cuda_toolkit_version / 1000 * 1000;
  if (driver.version >= needed) return;
  throw Error("ERR_DRIVER", "the NVIDIA driver supports CUDA " + version_text(driver.version) +
                                ", but the kernels of this build need CUDA " + version_text(needed) +
                                " or newer: update the NVIDIA driver, or use the device 'cpu'");
}

Driver open_driver() {
  Driver driver;
  driver.path = library_path();
  // Kept open for good: unloading a driver that has run is not safe.
  void* library = ::dlopen(driver.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = ::dlerror();
    throw Error("ERR_NO_DEVICE", "the CUDA driver library " + driver.path + " could not be opened (" +
                                     (reason ? reason : "no reason given") +
                                     "): install the NVIDIA driver, or use the device 'cpu'");
  }
#define SOFTMOE_CUDA_BIND(member, symbol, parameters)                                                     \
  bind(library, symbol, driver.member);                                                                   \
  if (!driver.member) {                                                                                   \
    throw Error("ERR_DRIVER", driver.path + " has no function " symbol                                    \
                                            ": it is older than CUDA 11.8; update the NVIDIA driver, or " \
                                            "use the device 'cpu'");                                      \
  }
  SOFTMOE_CUDA_DRIVER_FUNCTIONS(SOFTMOE_CUDA_BIND)
#undef SOFTMOE_CUDA_BIND
#define SOFTMOE_CUDA_BIND(member, symbol, parameters) bind(library, symbol, driver.member);
  SOFTMOE_CUDA_GRAPH_FUNCTIONS(SOFTMOE_CUDA_BIND)
  SOFTMOE_CUDA_TENSOR_MAP_FUNCTIONS(SOFTMOE_CUDA_BIND)
#undef SOFTMOE_CUDA_BIND

  const Result started = driver.init(0);
  if (started == kNoDevice) {
    throw Error("ERR_NO_DEVICE",
                "the NVIDIA driver finds no GPU on this machine: check `nvidia-smi` and "
                "CUDA_VISIBLE_DEVICES, or use the device 'cpu'");
  }
  if (started == kSystemDriverMismatch || started == kCompatNotSupported) {
    throw Error("ERR_DRIVER", "the NVIDIA driver library and kernel module do not belong together: " +
                                  driver.explain(started) + "; restart the machine after a driver update");
  }
  driver.check(started, "starting the CUDA driver");
  driver.check(driver.driver_version(&driver.version), "asking the driver for its version");
  require_version(driver);
  return driver;
}

}  // namespace

const Driver& Driver::get() {
  static std::mutex mutex;
  static Driver driver;
  static bool opened = false;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!opened) driver = open_driver();
  opened = true;
  return driver;
}

std::string Driver::explain(Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (error_name(result, &name) != kSuccess || !name) return "CUDA error " + std::to_string(result);
  std::string explained = name;
  if (error_string(result, &text) == kSuccess && text) explained += std::string(" (") + text + ")";
  return explained;
}

Error Driver::error(Result result, const std::string& action) const {
  const std::string what = action + " failed with " + explain(result);
  switch (result) {
    case kOutOfMemory:
      return Error("ERR_OUT_OF_MEMORY",
                   what + ": use a smaller batch or model, or free tensors and call emptyCache()");
    case kNoDevice:
      return Error("ERR_NO_DEVICE", what + ": check `nvidia-smi`, or use the device 'cpu'");
    case kInvalidImage:
    case kNoBinaryForGpu:
    case kInvalidPtx:
    case kUnsupportedPtxVersion:
    case kJitCompilationDisabled:
      return Error("ERR_NO_KERNEL_IMAGE",
                   what +
                       ": this build holds no kernels that this GPU and driver can run; update the driver, "
                       "or build from source with SOFTMOE_CUDA_ARCHS set to the GPU's compute capability");
    case kLaunchOutOfResources:
      return Error("ERR_LAUNCH", what +
                                     ": the GPU lacks the registers or shared memory that the kernel needs; "
                                     "report it with the GPU's name");
    default:
      if (is_sticky(result)) {
        return Error("ERR_LAUNCH", what +
                                       ": the device is unusable until the process restarts; run again "
                                       "with SOFTMOE_DEBUG=1 to see the kernel that faults");
      }
      return Error("ERR_DRIVER", what + ": check `nvidia-smi` and the system log, or use the device 'cpu'");
  }
}

void Driver::check(Result result, const std::string& action) const {
  if (result != kSuccess) throw error(result, action);
}

bool is_sticky(Result result) {
  switch (result) {
    case kDeinitialized:
    case 214:  // uncorrectable ECC error
    case kIllegalAddress:
    case kLaunchTimeout:
    case 710:  // assertion in a kernel
    case 714:  // hardware stack error
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // invalid address space
    case 718:  // invalid program counter
    case kLaunchFailed:
      return true;
    default:
      return false;
  }
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace softmoe::cuda
