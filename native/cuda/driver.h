// The CUDA driver, loaded at run time: nothing links to it, and no CUDA header is needed. The declarations
// below are those of the driver API's stable binary interface (CUDA 11.8 and newer).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"

namespace softmoe::cuda {

using Result = int;
using DeviceHandle = int;
using DevicePointer = unsigned long long;
using Context = struct ContextOpaque*;
using Module = struct ModuleOpaque*;
using Function = struct FunctionOpaque*;
using Stream = struct StreamOpaque*;
using Event = struct EventOpaque*;
using GraphTemplate = struct GraphOpaque*;
using GraphExecutable = struct GraphExecOpaque*;

// Values of CUresult that are told apart here.
inline constexpr Result kSuccess = 0;
inline constexpr Result kInvalidValue = 1;
inline constexpr Result kOutOfMemory = 2;
inline constexpr Result kDeinitialized = 4;
inline constexpr Result kNoDevice = 100;
inline constexpr Result kInvalidImage = 200;
inline constexpr Result kNoBinaryForGpu = 209;
inline constexpr Result kInvalidPtx = 218;
inline constexpr Result kUnsupportedPtxVersion = 222;
inline constexpr Result kJitCompilationDisabled = 223;
inline constexpr Result kIllegalAddress = 700;
inline constexpr Result kLaunchOutOfResources = 701;
inline constexpr Result kLaunchTimeout = 702;
inline constexpr Result kLaunchFailed = 719;
inline constexpr Result kSystemDriverMismatch = 803;
inline constexpr Result kCompatNotSupported = 804;

// Values of CUdevice_attribute and CUfunction_attribute.
inline constexpr int kAttributeMultiprocessors = 16;
inline constexpr int kAttributeComputeMajor = 75;
inline constexpr int kAttributeComputeMinor = 76;
inline constexpr int kAttributeSharedPerBlockOptIn = 97;
inline constexpr int kFunctionSharedBytes = 1;
inline constexpr int kFunctionLocalBytes = 3;
inline constexpr int kFunctionRegisters = 4;
inline constexpr int kFunctionMaxDynamicShared = 8;

inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDefault = 0;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr int kCaptureModeRelaxed = 2;

// X(member, symbol, parameters)
#define SOFTMOE_CUDA_DRIVER_FUNCTIONS(X)                                                             \
  X(init, "cuInit", (unsigned))                                                                      \
  X(driver_version, "cuDriverGetVersion", (int*))                                                    \
  X(error_name, "cuGetErrorName", (Result, const char**))                                            \
  X(error_string, "cuGetErrorString", (Result, const char**))                                        \
  X(device_count, "cuDeviceGetCount", (int*))                                                        \
  X(device_get, "cuDeviceGet", (DeviceHandle*, int))                                                 \
  X(device_name, "cuDeviceGetName", (char*, int, DeviceHandle))                                      \
  X(device_attribute, "cuDeviceGetAttribute", (int*, int, DeviceHandle))                             \
  X(device_total_memory, "cuDeviceTotalMem_v2", (std::size_t*, DeviceHandle))                        \
  X(primary_context_retain, "cuDevicePrimaryCtxRetain", (Context*, DeviceHandle))                    \
  X(primary_context_release, "cuDevicePrimaryCtxRelease_v2", (DeviceHandle))                         \
  X(context_set_current, "cuCtxSetCurrent", (Context))                                               \
  X(module_load, "cuModuleLoadDataEx", (Module*, const void*, unsigned, int*, void**))               \
  X(module_unload, "cuModuleUnload", (Module))                                                       \
  X(module_function, "cuModuleGetFunction", (Function*, Module, const char*))                        \
  X(function_attribute, "cuFuncGetAttribute", (int*, int, Function))                                 \
  X(function_set_attribute, "cuFuncSetAttribute", (Function, int, int))                              \
  X(memory_allocate, "cuMemAlloc_v2", (DevicePointer*, std::size_t))                                 \
  X(memory_free, "cuMemFree_v2", (DevicePointer))                                                    \
  X(memory_info, "cuMemGetInfo_v2", (std::size_t*, std::size_t*))                                    \
  X(host_allocate, "cuMemHostAlloc", (void**, std::size_t, unsigned))                                \
  X(host_free, "cuMemFreeHost", (void*))                                                             \
  X(copy_to_device, "cuMemcpyHtoDAsync_v2", (DevicePointer, const void*, std::size_t, Stream))       \
  X(copy_to_host, "cuMemcpyDtoHAsync_v2", (void*, DevicePointer, std::size_t, Stream))               \
  X(copy_on_device, "cuMemcpyDtoDAsync_v2", (DevicePointer, DevicePointer, std::size_t, Stream))     \
  X(set_bytes, "cuMemsetD8Async", (DevicePointer, unsigned char, std::size_t, Stream))               \
  X(stream_create, "cuStreamCreate", (Stream*, unsigned))                                            \
  X(stream_destroy, "cuStreamDestroy_v2", (Stream))                                                  \
  X(stream_synchronize, "cuStreamSynchronize", (Stream))                                             \
  X(event_create, "cuEventCreate", (Event*, unsigned))                                               \
  X(event_record, "cuEventRecord", (Event, Stream))                                                  \
  X(event_query, "cuEventQuery", (Event))                                                            \
  X(event_synchronize, "cuEventSynchronize", (Event))                                                \
  X(event_elapsed, "cuEventElapsedTime", (float*, Event, Event))                                     \
  X(event_destroy, "cuEventDestroy_v2", (Event))                                                     \
  X(launch_kernel, "cuLaunchKernel",                                                                 \
    (Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, void**, \
     void**))

// Absent from minimal drivers: without them CUDA graphs are refused and everything else works.
#define SOFTMOE_CUDA_GRAPH_FUNCTIONS(X)                                                                      \
  X(capture_begin, "cuStreamBeginCapture_v2", (Stream, int))                                                 \
  X(capture_end, "cuStreamEndCapture", (Stream, GraphTemplate*))                                             \
  X(graph_instantiate, "cuGraphInstantiateWithFlags", (GraphExecutable*, GraphTemplate, unsigned long long)) \
  X(graph_launch, "cuGraphLaunch", (GraphExecutable, Stream))                                                \
  X(graph_destroy, "cuGraphDestroy", (GraphTemplate))                                                        \
  X(graph_executable_destroy, "cuGraphExecDestroy", (GraphExecutable))

// Absent from drivers older than CUDA 12.0: needed by tile copies alone.
#define SOFTMOE_CUDA_TENSOR_MAP_FUNCTIONS(X)                                                   \
  X(tensor_map_encode, "cuTensorMapEncodeTiled",                                               \
    (void*, int, unsigned, void*, const std::uint64_t*, const std::uint64_t*, const unsigned*, \
     const unsigned*, int, int, int, int))

struct Driver {
#define SOFTMOE_CUDA_MEMBER(member, symbol, parameters) Result(*member) parameters = nullptr;
  SOFTMOE_CUDA_DRIVER_FUNCTIONS(SOFTMOE_CUDA_MEMBER)
  SOFTMOE_CUDA_GRAPH_FUNCTIONS(SOFTMOE_CUDA_MEMBER)
  SOFTMOE_CUDA_TENSOR_MAP_FUNCTIONS(SOFTMOE_CUDA_MEMBER)
#undef SOFTMOE_CUDA_MEMBER

  std::string path;  // the library that was opened
  int version = 0;   // 1000 * major + 10 * minor of the newest CUDA that the driver supports

  // The driver, opened and initialised on first use and kept for the life of the process. Throws
  // ERR_NO_DEVICE when there is no driver or no GPU and ERR_DRIVER when the driver does not serve; a failed
  // attempt is made anew by the next call.
  static const Driver& get();

  // "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)"
  std::string explain(Result result) const;
  // Throws the matching error, naming the `action` that failed, unless `result` is success.
  void check(Result result, const std::string& action) const;
  // The error that `check` would throw.
  Error error(Result result, const std::string& action) const;
};

// Whether no later call of the context can succeed once a call returned `result`.
bool is_sticky(Result result);

std::string version_text(int version);

}  // namespace softmoe::cuda
