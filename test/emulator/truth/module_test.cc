// Modules, functions and what a launch may ask for.
#include <cstring>

#include "session.h"

using namespace truth;

namespace {

// A fatbin as nvcc writes it, with the given entries.
class Fatbin {
 public:
  Fatbin& add(unsigned short kind, const std::string& payload, std::uint64_t flags = 0) {
    std::string header(64, '\0');
    const std::uint32_t headerBytes = 64;
    const std::uint64_t payloadBytes = (payload.size() + 8) / 8 * 8;
    std::memcpy(&header[0], &kind, 2);
    std::memcpy(&header[4], &headerBytes, 4);
    std::memcpy(&header[8], &payloadBytes, 8);
    std::memcpy(&header[40], &flags, 8);
    entries_ += header + payload + std::string(payloadBytes - payload.size(), '\0');
    return *this;
  }
  std::string image() const {
    std::string header(16, '\0');
    const std::uint32_t magic = 0xBA55ED50;
    const std::uint16_t version = 1;
    const std::uint16_t headerBytes = 16;
    const std::uint64_t bytes = entries_.size();
    std::memcpy(&header[0], &magic, 4);
    std::memcpy(&header[4], &version, 2);
    std::memcpy(&header[6], &headerBytes, 2);
    std::memcpy(&header[8], &bytes, 8);
    return header + entries_;
  }

 private:
  std::string entries_;
};

bool hasKernel(CUmodule module, const char* name) {
  CUfunction function = nullptr;
  const CUresult result = cuModuleGetFunction(&function, module, name);
  EXPECT(result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_FOUND);
  return result == CUDA_SUCCESS;
}

}  // namespace

TEST("of a fatbin the highest PTX that the device can run is taken, never machine code") {
  const std::string image = Fatbin()
                                .add(2, "\177ELF")
                                .add(1, emptyKernel("sm_80", "of80"))
                                .add(1, emptyKernel("sm_90", "of90"))
                                .add(1, emptyKernel("sm_90a", "of90a"))
                                .add(1, emptyKernel("sm_100", "of100"))
                                .image();
  const auto chosen = [&](const char* architecture) {
    const Session session(Environment{{"ARCH", architecture}});
    CUmodule module = nullptr;
    SUCCEED(cuModuleLoadDataEx(&module, image.data(), 0, nullptr, nullptr));
    for (const char* name : {"of80", "of90", "of90a", "of100"})
      if (hasKernel(module, name)) return std::string(name);
    return std::string("none");
  };
  EXPECT_EQUAL(chosen("8.0"), "of80");
  EXPECT_EQUAL(chosen("8.9"), "of80");
  EXPECT_EQUAL(chosen("9.0"), "of90a");
}

TEST("images that cannot be run are refused with their reason") {
  const Session session(Environment{{"ARCH", "8.0"}});
  CUmodule module = nullptr;
  const auto load = [&](const std::string& image) { return cuModuleLoadData(&module, image.c_str()); };
  const auto loadFatbin = [&](const Fatbin& fatbin) {
    return cuModuleLoadData(&module, fatbin.image().data());
  };
  EXPECT_EQUAL(load("\177ELF\2\1\1"), CUDA_ERROR_NO_BINARY_FOR_GPU);
  EXPECT_EQUAL(load("nonsense"), CUDA_ERROR_INVALID_PTX);
  EXPECT_EQUAL(load(emptyKernel("sm_90", "k")), CUDA_ERROR_INVALID_PTX);
  EXPECT_EQUAL(loadFatbin(Fatbin().add(2, "\177ELF")), CUDA_ERROR_NO_BINARY_FOR_GPU);
  EXPECT_EQUAL(loadFatbin(Fatbin().add(1, emptyKernel("sm_90", "k"))), CUDA_ERROR_NO_BINARY_FOR_GPU);
  EXPECT_EQUAL(loadFatbin(Fatbin().add(1, "packed", 0x8000)), CUDA_ERROR_INVALID_IMAGE);
  EXPECT_EQUAL(cuModuleLoadData(&module, nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT(session.reports().back().string("message").find("--compress-mode none") != std::string::npos);

  char log[200] = "";
  int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  const std::string wrong =
      ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n  frobnicate.u32 %r1;\n}\n";
  EXPECT_EQUAL(cuModuleLoadDataEx(&module, wrong.c_str(), 2, options, values), CUDA_ERROR_INVALID_PTX);
  EXPECT(std::string(log).find("frobnicate") != std::string::npos);
}

TEST("functions and global variables are found by name, libraries as modules are") {
  const Session session;
  const Program program(incrementPtx);
  CUfunction function = nullptr;
  EXPECT_EQUAL(cuModuleGetFunction(&function, program.module(), "decrement"), CUDA_ERROR_NOT_FOUND);
  EXPECT(program.function("increment") == program.function("increment"));
  CUdeviceptr address = 0;
  std::size_t bytes = 0;
  SUCCEED(cuModuleGetGlobal_v2(&address, &bytes, program.module(), "shared_total"));
  EXPECT_EQUAL(bytes, std::size_t{4});
  int value = 0;
  SUCCEED(cuMemcpyDtoH_v2(&value, address, 4));
  EXPECT_EQUAL(value, 7);
  EXPECT_EQUAL(cuModuleGetGlobal_v2(&address, &bytes, program.module(), "nothing"), CUDA_ERROR_NOT_FOUND);

  CUlibrary library = nullptr;
  CUkernel kernel = nullptr;
  SUCCEED(cuLibraryLoadData(&library, incrementPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  SUCCEED(cuLibraryGetKernel(&kernel, library, "fill"));
  SUCCEED(cuKernelGetFunction(&function, kernel));
  SUCCEED(cuLibraryUnload(library));
  EXPECT_EQUAL(cuKernelGetFunction(&function, kernel), CUDA_ERROR_INVALID_HANDLE);
}

TEST("function attributes tell the kernel's needs, and dynamic shared memory over 48 KB must be asked for") {
  const Session session(Environment{{"ARCH", "8.0"}});
  const Program program(incrementPtx);
  const CUfunction fill = program.function("fill");
  const auto get = [&](int which) {
    int value = -1;
    SUCCEED(cuFuncGetAttribute(&value, which, fill));
    return value;
  };
  EXPECT_EQUAL(get(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 64);
  EXPECT_EQUAL(get(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 1024);
  EXPECT_EQUAL(get(CU_FUNC_ATTRIBUTE_PTX_VERSION), 80);
  EXPECT_EQUAL(get(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES), 47 * 1024);
  const DeviceArray<int> data(64);
  const auto launch = [&](unsigned shared) {
    return launchOn(nullptr, fill, {1, 64, shared}, data.address(), 5);
  };
  SUCCEED(launch(47 << 10));
  EXPECT_EQUAL(launch((47 << 10) + 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 163 << 10),
               CUDA_ERROR_INVALID_VALUE);
  SUCCEED(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 162 << 10));
  SUCCEED(launch(162 << 10));
  SUCCEED(cuCtxSynchronize());

  int blocks = 0;
  SUCCEED(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, fill, 64, 0));
  EXPECT_EQUAL(blocks, 32);
  SUCCEED(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, fill, 64, 80 << 10));
  EXPECT_EQUAL(blocks, 2);
}

TEST("launches that the device or the kernel does not allow are refused at once") {
  const Session session;
  const Program program(incrementPtx);
  const CUfunction increment = program.function("increment");
  const DeviceArray<int> data(std::vector<int>{1, 2, 3});
  EXPECT_EQUAL(launchOn(nullptr, increment, {0, 32}, data.address(), 3u), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(launchOn(nullptr, increment, {1, 0}, data.address(), 3u), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(launchOn(nullptr, increment, {1, 1025}, data.address(), 3u), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(launchOn(nullptr, increment, {1, 65536, 1, 32, 0}, data.address(), 3u),
               CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(launchOn(nullptr, program.function("fill"), {1, 65}, data.address(), 3),
               CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQUAL(cuLaunchKernel(increment, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr),
               CUDA_ERROR_INVALID_VALUE);

  struct {
    CUdeviceptr data;
    unsigned count;
  } arguments{data.address(), 3};
  std::size_t size = sizeof arguments;
  void* extra[] = {reinterpret_cast<void*>(launchParamBufferPointer), &arguments,
                   reinterpret_cast<void*>(launchParamBufferSize), &size, nullptr};
  SUCCEED(cuLaunchKernel(increment, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, extra));
  CUlaunchAttribute attributes[2] = {};
  attributes[0].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  attributes[0].value.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  attributes[1].value.clusterDim = {1, 1, 1};
  CUlaunchConfig config{1, 1, 1, 32, 1, 1, 0, nullptr, attributes, 2};
  SUCCEED(cuLaunchKernelEx(&config, increment, nullptr, extra));
  attributes[1].value.clusterDim = {2, 1, 1};
  EXPECT_EQUAL(cuLaunchKernelEx(&config, increment, nullptr, extra), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT(data.download() == (std::vector<int>{3, 4, 5}));
}
