// What the emulated driver answers: exported names, initialisation, contexts, devices, handles.
#include <dlfcn.h>

#include <cstring>

#include "session.h"

using namespace truth;

namespace {

const char* const exportedNames[] = {"cuInit",
                                     "cuDriverGetVersion",
                                     "cuGetProcAddress_v2",
                                     "cuGetErrorName",
                                     "cuGetErrorString",
                                     "cuDeviceGetCount",
                                     "cuDeviceGet",
                                     "cuDeviceGetName",
                                     "cuDeviceGetAttribute",
                                     "cuDeviceTotalMem_v2",
                                     "cuDeviceGetUuid_v2",
                                     "cuDevicePrimaryCtxRetain",
                                     "cuDevicePrimaryCtxRelease_v2",
                                     "cuCtxSetCurrent",
                                     "cuCtxGetCurrent",
                                     "cuCtxPushCurrent_v2",
                                     "cuCtxPopCurrent_v2",
                                     "cuCtxSynchronize",
                                     "cuModuleLoadDataEx",
                                     "cuModuleLoadData",
                                     "cuModuleUnload",
                                     "cuModuleGetFunction",
                                     "cuModuleGetGlobal_v2",
                                     "cuLibraryLoadData",
                                     "cuLibraryGetKernel",
                                     "cuFuncGetAttribute",
                                     "cuFuncSetAttribute",
                                     "cuOccupancyMaxActiveBlocksPerMultiprocessor",
                                     "cuMemAlloc_v2",
                                     "cuMemFree_v2",
                                     "cuMemGetInfo_v2",
                                     "cuMemAllocAsync",
                                     "cuMemFreeAsync",
                                     "cuDeviceGetDefaultMemPool",
                                     "cuMemPoolSetAttribute",
                                     "cuMemPoolTrimTo",
                                     "cuMemHostAlloc",
                                     "cuMemFreeHost",
                                     "cuMemHostRegister_v2",
                                     "cuMemHostUnregister",
                                     "cuMemcpyHtoD_v2",
                                     "cuMemcpyDtoH_v2",
                                     "cuMemcpyHtoDAsync_v2",
                                     "cuMemcpyDtoHAsync_v2",
                                     "cuMemcpyDtoDAsync_v2",
                                     "cuMemsetD8Async",
                                     "cuMemsetD32Async",
                                     "cuMemsetD8_v2",
                                     "cuStreamCreate",
                                     "cuStreamCreateWithPriority",
                                     "cuStreamDestroy_v2",
                                     "cuStreamSynchronize",
                                     "cuStreamQuery",
                                     "cuStreamWaitEvent",
                                     "cuLaunchHostFunc",
                                     "cuEventCreate",
                                     "cuEventRecord",
                                     "cuEventQuery",
                                     "cuEventSynchronize",
                                     "cuEventDestroy_v2",
                                     "cuEventElapsedTime",
                                     "cuLaunchKernel",
                                     "cuLaunchKernelEx",
                                     "cuStreamBeginCapture_v2",
                                     "cuStreamEndCapture",
                                     "cuStreamIsCapturing",
                                     "cuGraphInstantiateWithFlags",
                                     "cuGraphLaunch",
                                     "cuGraphDestroy",
                                     "cuGraphExecDestroy",
                                     "cuTensorMapEncodeTiled"};

int attribute(int which, CUdevice device = 0) {
  int value = -1;
  SUCCEED(cuDeviceGetAttribute(&value, which, device));
  return value;
}

}  // namespace

TEST("every function is found by dlsym under its literal name, and by cuGetProcAddress without its suffix") {
  const Session session({}, false);
  void* library = dlopen(EMULATOR_LIBRARY, RTLD_NOW);
  EXPECT(library != nullptr);
  for (const char* const name : exportedNames) {
    void* const symbol = dlsym(library, name);
    truth::expectTrue(symbol != nullptr, name, __FILE__, __LINE__);
    std::string base = name;
    const std::size_t suffix = base.rfind("_v2");
    if (suffix != std::string::npos) base.resize(suffix);
    void* address = nullptr;
    int status = -1;
    SUCCEED(cuGetProcAddress_v2(base.c_str(), &address, 12000, 0, &status));
    truth::expectTrue(address == symbol && status == 0, name, __FILE__, __LINE__);
  }
  void* address = nullptr;
  EXPECT_EQUAL(cuGetProcAddress_v2("cuNoSuchThing", &address, 12000, 0, nullptr), CUDA_ERROR_NOT_FOUND);
  EXPECT(address == nullptr);
  dlclose(library);
}

TEST("calls before cuInit, without a context and with a destroyed one are refused") {
  const Session session({}, false);
  int count = 0;
  CUdeviceptr address = 0;
  EXPECT_EQUAL(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQUAL(cuMemAlloc_v2(&address, 4), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQUAL(cuInit(1), CUDA_ERROR_INVALID_VALUE);
  SUCCEED(cuInit(0));
  EXPECT_EQUAL(cuMemAlloc_v2(&address, 4), CUDA_ERROR_INVALID_CONTEXT);
  CUcontext context = nullptr;
  SUCCEED(cuDevicePrimaryCtxRetain(&context, 0));
  SUCCEED(cuCtxSetCurrent(context));
  SUCCEED(cuMemAlloc_v2(&address, 4));
  SUCCEED(cuDevicePrimaryCtxRelease_v2(0));
  EXPECT_EQUAL(cuMemAlloc_v2(&address, 4), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQUAL(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQUAL(cuCtxSetCurrent(context), CUDA_ERROR_INVALID_CONTEXT);
}

TEST("the stack of current contexts belongs to the thread") {
  const Session session(Environment{{"DEVICES", "2"}});
  CUcontext second = nullptr;
  SUCCEED(cuDevicePrimaryCtxRetain(&second, 1));
  EXPECT(second != session.context);
  SUCCEED(cuCtxPushCurrent_v2(second));
  CUdevice device = -1;
  SUCCEED(cuCtxGetDevice(&device));
  EXPECT_EQUAL(device, 1);
  CUcontext popped = nullptr;
  SUCCEED(cuCtxPopCurrent_v2(&popped));
  EXPECT(popped == second);
  SUCCEED(cuCtxGetDevice(&device));
  EXPECT_EQUAL(device, 0);
  CUstream stream = nullptr;
  SUCCEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  SUCCEED(cuCtxPushCurrent_v2(second));
  EXPECT_EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE);
  SUCCEED(cuCtxPopCurrent_v2(nullptr));
  SUCCEED(cuCtxPopCurrent_v2(nullptr));
  EXPECT_EQUAL(cuCtxPopCurrent_v2(nullptr), CUDA_ERROR_INVALID_CONTEXT);
}

TEST("no device, an old driver, several devices and a small memory are emulated") {
  {
    const Session session(Environment{{"DEVICES", "0"}}, false);
    EXPECT_EQUAL(cuInit(0), CUDA_ERROR_NO_DEVICE);
  }
  {
    const Session session(Environment{{"DRIVER_VERSION", "11040"}, {"DEVICES", "3"}, {"MEMORY_MB", "64"}});
    int version = 0;
    SUCCEED(cuDriverGetVersion(&version));
    EXPECT_EQUAL(version, 11040);
    int count = 0;
    SUCCEED(cuDeviceGetCount(&count));
    EXPECT_EQUAL(count, 3);
    CUdevice device = -1;
    EXPECT_EQUAL(cuDeviceGet(&device, 3), CUDA_ERROR_INVALID_DEVICE);
    std::size_t bytes = 0;
    SUCCEED(cuDeviceTotalMem_v2(&bytes, 2));
    EXPECT_EQUAL(bytes, std::size_t{64} << 20);
    CUmodule module = nullptr;
    EXPECT_EQUAL(cuModuleLoadData(&module, emptyKernel("sm_80", "k", "9.0").c_str()),
                 CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    SUCCEED(cuModuleLoadData(&module, emptyKernel("sm_80", "k", "7.4").c_str()));
  }
}

TEST("device attributes are those of the architecture asked for") {
  {
    const Session session;
    EXPECT_EQUAL(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 9);
    EXPECT_EQUAL(attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 227 * 1024);
    EXPECT_EQUAL(attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
    int value = 0;
    EXPECT_EQUAL(cuDeviceGetAttribute(&value, 100000, 0), CUDA_ERROR_INVALID_VALUE);
    char name[64] = "";
    SUCCEED(cuDeviceGetName(name, sizeof name, 0));
    EXPECT(std::string(name).find("mulated") != std::string::npos);
    char shortName[4];
    SUCCEED(cuDeviceGetName(shortName, sizeof shortName, 0));
    EXPECT_EQUAL(std::strlen(shortName), std::size_t{3});
  }
  const Session session(Environment{{"ARCH", "8.6"}, {"MULTIPROCESSORS", "4"}});
  EXPECT_EQUAL(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 8);
  EXPECT_EQUAL(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR), 6);
  EXPECT_EQUAL(attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 99 * 1024);
  EXPECT_EQUAL(attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 4);
}

TEST("result codes have names and sentences") {
  const char* text = nullptr;
  SUCCEED(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
  EXPECT_EQUAL(std::string(text), "CUDA_ERROR_ILLEGAL_ADDRESS");
  SUCCEED(cuGetErrorString(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
  EXPECT_EQUAL(std::string(text), "an illegal memory access was encountered");
  EXPECT_EQUAL(cuGetErrorName(static_cast<CUresult>(12345), &text), CUDA_ERROR_INVALID_VALUE);
}

TEST("a destroyed handle, one of another kind and garbage are invalid handles") {
  const Session session;
  CUstream stream = nullptr;
  CUevent event = nullptr;
  SUCCEED(cuStreamCreate(&stream, 0));
  SUCCEED(cuEventCreate(&event, 0));
  EXPECT_EQUAL(cuStreamSynchronize(reinterpret_cast<CUstream>(event)), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQUAL(cuEventRecord(reinterpret_cast<CUevent>(stream), stream), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQUAL(cuStreamSynchronize(reinterpret_cast<CUstream>(0xDEAD0)), CUDA_ERROR_INVALID_HANDLE);
  SUCCEED(cuStreamDestroy_v2(stream));
  SUCCEED(cuEventDestroy_v2(event));
  EXPECT_EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQUAL(cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQUAL(cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE);
  CUfunction function = nullptr;
  {
    const Program program(incrementPtx);
    function = program.function("increment");
  }
  int value = 0;
  EXPECT_EQUAL(cuFuncGetAttribute(&value, 0, function), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQUAL(launchOn(nullptr, function, {1, 32}, CUdeviceptr{0}, 0u), CUDA_ERROR_INVALID_HANDLE);
}
