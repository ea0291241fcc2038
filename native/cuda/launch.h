// What the host side of a kernel needs: launch, memory for intermediate results, the device's properties.
//
// A kernel is `extern "C" __global__ void name(const __grid_constant__ Params params)` in kernels/<file>.cu;
// its one parameter is a plain struct of kernels/<file>_params.h, which both sides include.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "cuda/device_memory.h"
#include "cuda/driver.h"
#include "cuda/index_reports.h"
#include "cuda/kernel_library.h"

namespace softmoe::cuda {

struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

constexpr std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

// Memory for the time of a launch. The stream is in order, so it may go back while kernels still use it.
class Workspace {
 public:
  Workspace(DeviceMemory& memory, std::size_t bytes)
      : memory_(&memory), data_(memory.allocate(bytes)), bytes_(bytes) {}
  Workspace(Workspace&& other) noexcept : memory_(other.memory_), data_(other.data_), bytes_(other.bytes_) {
    other.data_ = nullptr;
  }
  Workspace& operator=(Workspace&&) = delete;
  ~Workspace() { memory_->release(data_, bytes_); }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  Buffer buffer(DType dtype) const { return {data_, dtype}; }

 private:
  DeviceMemory* memory_;
  void* data_;
  std::size_t bytes_;
};

struct DeviceProperties {
  int multiprocessors = 1;
  int compute_capability = 80;  // 10 * major + minor
  int shared_bytes_per_block = 48 * 1024;
};

class Launcher {
 public:
  Launcher(const Driver& driver, Stream stream, DeviceMemory& memory, const DeviceProperties& properties);
  ~Launcher();
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  // Queues the kernel; a grid with a zero extent queues nothing. `params` is copied.
  template <class Params>
  void launch(const char* file, const char* kernel, Grid grid, unsigned threads, std::size_t shared_bytes,
              const Params& params) {
    static_assert(std::is_trivially_copyable_v<Params> && std::is_standard_layout_v<Params>);
    static_assert(sizeof(Params) <= 4096, "kernel parameters are limited to 4096 bytes");
    void* arguments[] = {const_cast<Params*>(&params)};
    launch_untyped(file, kernel, grid, threads, shared_bytes, arguments);
  }

  // Sets `bytes` bytes to zero.
  void clear(void* data, std::size_t bytes);
  void copy(void* target, const void* source, std::size_t bytes);

  Workspace workspace(std::size_t bytes) { return Workspace(memory_, bytes); }
  template <class T>
  Workspace workspace_of(std::int64_t count) {
    return workspace(static_cast<std::size_t>(count) * sizeof(T));
  }

  const DeviceProperties& properties() const { return properties_; }
  // Whether float32 products may round their operands to tf32 (SOFTMOE_CUDA_TF32=1).
  bool tf32_allowed() const { return tf32_allowed_; }
  // Whether products may run on the instructions of compute capability 9.0 (SOFTMOE_CUDA_WGMMA=1), which have
  // not been run on such a device yet.
  bool wgmma_allowed() const { return wgmma_allowed_; }
  const Driver& driver() const { return driver_; }
  // No launch is timed while a graph is being captured.
  void set_capturing(bool capturing) { capturing_ = capturing; }
  IndexReports& index_reports() { return index_reports_; }
  void unload() noexcept {
    library_.clear();
    index_reports_.free();
  }

 private:
  void launch_untyped(const char* file, const char* kernel, Grid grid, unsigned threads,
                      std::size_t shared_bytes, void** arguments);

  const Driver& driver_;
  Stream stream_;
  DeviceMemory& memory_;
  DeviceProperties properties_;
  KernelLibrary library_;
  IndexReports index_reports_;
  bool debug_ = false, tf32_allowed_ = false, wgmma_allowed_ = false, capturing_ = false;
  Event start_ = nullptr, end_ = nullptr;  // for SOFTMOE_DEBUG=1
};

}  // namespace softmoe::cuda
