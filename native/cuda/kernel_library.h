// The embedded kernels of one context: a module for each file of native/cuda/kernels, loaded when first used.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <unordered_map>

#include "cuda/driver.h"

namespace softmoe::cuda {

struct Kernel {
  Function function = nullptr;
  int registers = 0, local_bytes = 0, static_shared_bytes = 0;
  std::size_t dynamic_shared_limit = 48 * 1024;  // raised on demand; the driver's default
};

class KernelLibrary {
 public:
  explicit KernelLibrary(const Driver& driver) : driver_(driver) {}
  ~KernelLibrary() { clear(); }
  KernelLibrary(const KernelLibrary&) = delete;
  KernelLibrary& operator=(const KernelLibrary&) = delete;

  // The kernel `name` (unique over all files) of kernels/<file>.cu, allowed to use `dynamic_shared` bytes.
  // Throws ERR_NO_KERNEL_IMAGE.
  const Kernel& get(const char* file, const char* name, std::size_t dynamic_shared);
  void clear() noexcept;

 private:
  Module module(const char* file);

  const Driver& driver_;
  std::unordered_map<std::string, Module> modules_;
  std::unordered_map<std::string, Kernel> kernels_;
};

}  // namespace softmoe::cuda
