// The functions that the emulated driver exports, under the names by which a program looks them up. The
// meaning of each is that of the CUDA driver API reference; README.md in test/emulator says where the
// emulation differs.
#pragma once

#include "cuda_types.h"

#define EMULATED_DRIVER_API __attribute__((visibility("default")))

extern "C" {

using softmoe::emulator::cuda::CUcontext;
using softmoe::emulator::cuda::CUdevice;
using softmoe::emulator::cuda::CUdeviceptr;
using softmoe::emulator::cuda::CUevent;
using softmoe::emulator::cuda::CUfunction;
using softmoe::emulator::cuda::CUgraph;
using softmoe::emulator::cuda::CUgraphExec;
using softmoe::emulator::cuda::CUhostFn;
using softmoe::emulator::cuda::CUkernel;
using softmoe::emulator::cuda::CUlaunchConfig;
using softmoe::emulator::cuda::CUlibrary;
using softmoe::emulator::cuda::CUmemoryPool;
using softmoe::emulator::cuda::CUmodule;
using softmoe::emulator::cuda::CUresult;
using softmoe::emulator::cuda::CUstream;
using softmoe::emulator::cuda::CUstreamCaptureMode;
using softmoe::emulator::cuda::CUstreamCaptureStatus;
using softmoe::emulator::cuda::CUtensorMap;
using softmoe::emulator::cuda::CUuuid;

// Initialisation, errors, devices.
EMULATED_DRIVER_API CUresult cuInit(unsigned flags);
EMULATED_DRIVER_API CUresult cuDriverGetVersion(int* version);
EMULATED_DRIVER_API CUresult cuGetProcAddress_v2(const char* symbol, void** function, int cudaVersion,
                                                 std::uint64_t flags, int* status);
EMULATED_DRIVER_API CUresult cuGetErrorName(CUresult code, const char** text);
EMULATED_DRIVER_API CUresult cuGetErrorString(CUresult code, const char** text);
EMULATED_DRIVER_API CUresult cuDeviceGetCount(int* count);
EMULATED_DRIVER_API CUresult cuDeviceGet(CUdevice* device, int ordinal);
EMULATED_DRIVER_API CUresult cuDeviceGetName(char* name, int length, CUdevice device);
EMULATED_DRIVER_API CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device);
EMULATED_DRIVER_API CUresult cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device);
EMULATED_DRIVER_API CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device);
EMULATED_DRIVER_API void emulatedDriverReset();

// Contexts.
EMULATED_DRIVER_API CUresult cuDevicePrimaryCtxRetain(CUcontext* handle, CUdevice device);
EMULATED_DRIVER_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
EMULATED_DRIVER_API CUresult cuCtxSetCurrent(CUcontext handle);
EMULATED_DRIVER_API CUresult cuCtxGetCurrent(CUcontext* handle);
EMULATED_DRIVER_API CUresult cuCtxPushCurrent_v2(CUcontext handle);
EMULATED_DRIVER_API CUresult cuCtxPopCurrent_v2(CUcontext* handle);
EMULATED_DRIVER_API CUresult cuCtxGetDevice(CUdevice* device);

// Modules and functions.
EMULATED_DRIVER_API CUresult cuModuleLoadData(CUmodule* module, const void* image);
EMULATED_DRIVER_API CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned optionCount,
                                                int* options, void** values);
EMULATED_DRIVER_API CUresult cuModuleUnload(CUmodule handle);
EMULATED_DRIVER_API CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name);
EMULATED_DRIVER_API CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, std::size_t* bytes, CUmodule handle,
                                                  const char* name);
EMULATED_DRIVER_API CUresult cuLibraryLoadData(CUlibrary* library, const void* image, int* jitOptions,
                                               void** jitValues, unsigned jitCount, int*, void**, unsigned);
EMULATED_DRIVER_API CUresult cuLibraryUnload(CUlibrary library);
EMULATED_DRIVER_API CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name);
EMULATED_DRIVER_API CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel);
EMULATED_DRIVER_API CUresult cuFuncGetAttribute(int* value, int attribute, CUfunction handle);
EMULATED_DRIVER_API CUresult cuFuncSetAttribute(CUfunction handle, int attribute, int value);
EMULATED_DRIVER_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle,
                                                                         int blockSize,
                                                                         std::size_t dynamicShared);

// Memory.
EMULATED_DRIVER_API CUresult cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes);
EMULATED_DRIVER_API CUresult cuMemAllocAsync(CUdeviceptr* address, std::size_t bytes, CUstream handle);
EMULATED_DRIVER_API CUresult cuMemFree_v2(CUdeviceptr address);
EMULATED_DRIVER_API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle);
EMULATED_DRIVER_API CUresult cuMemGetInfo_v2(std::size_t* free, std::size_t* total);
EMULATED_DRIVER_API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device);
EMULATED_DRIVER_API CUresult cuMemPoolSetAttribute(CUmemoryPool pool, int attribute, void* value);
EMULATED_DRIVER_API CUresult cuMemPoolGetAttribute(CUmemoryPool pool, int attribute, void* value);
EMULATED_DRIVER_API CUresult cuMemPoolTrimTo(CUmemoryPool pool, std::size_t);
EMULATED_DRIVER_API CUresult cuMemHostAlloc(void** address, std::size_t bytes, unsigned flags);
EMULATED_DRIVER_API CUresult cuMemFreeHost(void* address);
EMULATED_DRIVER_API CUresult cuMemHostRegister_v2(void* address, std::size_t bytes, unsigned flags);
EMULATED_DRIVER_API CUresult cuMemHostUnregister(void* address);

// Copies and fills.
EMULATED_DRIVER_API CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void* source, std::size_t bytes);
EMULATED_DRIVER_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void* source, std::size_t bytes,
                                                  CUstream stream);
EMULATED_DRIVER_API CUresult cuMemcpyDtoH_v2(void* target, CUdeviceptr source, std::size_t bytes);
EMULATED_DRIVER_API CUresult cuMemcpyDtoHAsync_v2(void* target, CUdeviceptr source, std::size_t bytes,
                                                  CUstream stream);
EMULATED_DRIVER_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, std::size_t bytes,
                                                  CUstream stream);
EMULATED_DRIVER_API CUresult cuMemsetD8_v2(CUdeviceptr target, unsigned char value, std::size_t count);
EMULATED_DRIVER_API CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, std::size_t count,
                                             CUstream stream);
EMULATED_DRIVER_API CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, std::size_t count,
                                              CUstream stream);

// Streams, events, waiting.
EMULATED_DRIVER_API CUresult cuStreamCreate(CUstream* handle, unsigned flags);
EMULATED_DRIVER_API CUresult cuStreamCreateWithPriority(CUstream* handle, unsigned flags, int priority);
EMULATED_DRIVER_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest);
EMULATED_DRIVER_API CUresult cuStreamDestroy_v2(CUstream handle);
EMULATED_DRIVER_API CUresult cuStreamSynchronize(CUstream handle);
EMULATED_DRIVER_API CUresult cuStreamQuery(CUstream handle);
EMULATED_DRIVER_API CUresult cuCtxSynchronize();
EMULATED_DRIVER_API CUresult cuStreamWaitEvent(CUstream handle, CUevent eventHandle, unsigned flags);
EMULATED_DRIVER_API CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* userData);
EMULATED_DRIVER_API CUresult cuEventCreate(CUevent* handle, unsigned flags);
EMULATED_DRIVER_API CUresult cuEventRecord(CUevent handle, CUstream streamHandle);
EMULATED_DRIVER_API CUresult cuEventQuery(CUevent handle);
EMULATED_DRIVER_API CUresult cuEventSynchronize(CUevent handle);
EMULATED_DRIVER_API CUresult cuEventDestroy_v2(CUevent handle);
EMULATED_DRIVER_API CUresult cuEventElapsedTime(float* milliseconds, CUevent startHandle, CUevent endHandle);

// Launches.
EMULATED_DRIVER_API CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function,
                                              void** kernelParams, void** extra);
EMULATED_DRIVER_API CUresult cuLaunchKernel(CUfunction function, unsigned gridX, unsigned gridY,
                                            unsigned gridZ, unsigned blockX, unsigned blockY, unsigned blockZ,
                                            unsigned sharedBytes, CUstream stream, void** kernelParams,
                                            void** extra);

// Graphs.
EMULATED_DRIVER_API CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode);
EMULATED_DRIVER_API CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph);
EMULATED_DRIVER_API CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status);
EMULATED_DRIVER_API CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph,
                                                         unsigned long long flags);
EMULATED_DRIVER_API CUresult cuGraphLaunch(CUgraphExec executable, CUstream handle);
EMULATED_DRIVER_API CUresult cuGraphDestroy(CUgraph graph);
EMULATED_DRIVER_API CUresult cuGraphExecDestroy(CUgraphExec executable);

// Tensor maps.
EMULATED_DRIVER_API CUresult cuTensorMapEncodeTiled(CUtensorMap* map, int dataType, unsigned rank,
                                                    void* address, const std::uint64_t* dimensions,
                                                    const std::uint64_t* strides, const unsigned* box,
                                                    const unsigned* elementStrides, int interleave,
                                                    int swizzle, int l2Promotion, int outOfBoundsFill);

}  // extern "C"
