// The driver as a test program uses it: an environment, a device made ready, typed device arrays, launches,
// and the JSON lines the emulator wrote.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "../driver/cuda_api.h"
#include "expect.h"

namespace truth {

using namespace softmoe::emulator::cuda;

using Environment = std::map<std::string, std::string>;  // names without SOFTMOE_EMULATOR_

// Throws where a call that must work does not.
void succeed(CUresult result, const char* expression, const char* file, int line);

// One line of a journal. Only what tests look at is read: strings and numbers of the outermost object, and
// those of "counters".
struct JournalLine {
  std::string text;
  std::string string(const std::string& key) const;
  double number(const std::string& key) const;
};

// A driver that has just read the given environment. Reports go to a file of the session.
class Session {
 public:
  explicit Session(Environment environment = {}, bool ready = true);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Ends the session's driver as a process end would; journals are complete then.
  void close();
  std::vector<JournalLine> reports() const;
  std::vector<JournalLine> counters() const;
  std::vector<JournalLine> leaks() const;
  std::vector<JournalLine> calls() const;

  CUcontext context = nullptr;

 private:
  Environment environment_;
  std::string directory_;
};

// A module from PTX or a fatbin, and launches of its kernels on a stream.
class Program {
 public:
  explicit Program(const std::string& image);
  static Program fromFile(const std::string& name);  // of the kernels compiled with the tests
  ~Program();
  Program(Program&& other) noexcept;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  CUfunction function(const std::string& name) const;
  CUmodule module() const { return module_; }

 private:
  CUmodule module_ = nullptr;
};

struct Shape {
  unsigned grid[3] = {1, 1, 1};
  unsigned block[3] = {32, 1, 1};
  unsigned dynamicShared = 0;
  Shape(unsigned blocks, unsigned threads, unsigned shared = 0)
      : grid{blocks, 1, 1}, block{threads, 1, 1}, dynamicShared(shared) {}
  Shape(unsigned x, unsigned y, unsigned z, unsigned threads, unsigned shared)
      : grid{x, y, z}, block{threads, 1, 1}, dynamicShared(shared) {}
};

template <class... Arguments>
CUresult launchOn(CUstream stream, CUfunction function, const Shape& shape, Arguments... arguments) {
  void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
  return cuLaunchKernel(function, shape.grid[0], shape.grid[1], shape.grid[2], shape.block[0], shape.block[1],
                        shape.block[2], shape.dynamicShared, stream, pointers, nullptr);
}

// Launches and waits; the result of the wait.
template <class... Arguments>
CUresult run(CUfunction function, const Shape& shape, Arguments... arguments) {
  const CUresult launched = launchOn(nullptr, function, shape, arguments...);
  return launched != CUDA_SUCCESS ? launched : cuCtxSynchronize();
}

// An array in device memory.
template <class Value>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    succeed(cuMemAlloc_v2(&address_, count * sizeof(Value)), "cuMemAlloc_v2", __FILE__, __LINE__);
  }
  explicit DeviceArray(const std::vector<Value>& values) : DeviceArray(values.size()) { upload(values); }
  ~DeviceArray() { cuMemFree_v2(address_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  void upload(const std::vector<Value>& values) {
    succeed(cuMemcpyHtoD_v2(address_, values.data(), values.size() * sizeof(Value)), "cuMemcpyHtoD_v2",
            __FILE__, __LINE__);
  }
  std::vector<Value> download() const {
    std::vector<Value> values(count_);
    succeed(cuMemcpyDtoH_v2(values.data(), address_, count_ * sizeof(Value)), "cuMemcpyDtoH_v2", __FILE__,
            __LINE__);
    return values;
  }
  CUdeviceptr address() const { return address_; }
  std::size_t bytes() const { return count_ * sizeof(Value); }

 private:
  CUdeviceptr address_ = 0;
  std::size_t count_;
};

// Runs the body with the kernels of a fatbin on both emulated architectures and in several orders of blocks
// and warps. A report of any checker is a failure.
void everywhere(const std::string& fatbin,
                const std::function<void(const Program&, std::uint64_t seed)>& body);

// PTX of a kernel without parameters that does nothing.
std::string emptyKernel(const std::string& target, const std::string& name,
                        const std::string& version = "7.8");

// increment(int* data, unsigned count): data[i] += 1 for i < count.  fill(int* data, int value): data[i] =
// value.
extern const char incrementPtx[];

}  // namespace truth

#define SUCCEED(call) truth::succeed((call), #call, __FILE__, __LINE__)
