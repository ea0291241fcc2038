#include "cuda/kernel_library.h"

#include <cstring>

#include "cuda/fatbin.h"

namespace softmoe::cuda {

Module KernelLibrary::module(const char* file) {
  const auto found = modules_.find(file);
  if (found != modules_.end()) return found->second;
  const SoftmoeFatbin* fatbin = softmoe_fatbins;
  while (fatbin->name && std::strcmp(fatbin->name, file) != 0) ++fatbin;
  if (!fatbin->name) {
    throw Error("ERR_NO_KERNEL_IMAGE", std::string("this build holds no CUDA kernels of '") + file +
                                           "': install a build with CUDA support, or build from source with "
                                           "the CUDA toolkit on PATH");
  }
  Module module = nullptr;
  driver_.check(driver_.module_load(&module, fatbin->begin, 0, nullptr, nullptr),
                std::string("loading the kernels of '") + file + "'");
  modules_.emplace(file, module);
  return module;
}

const Kernel& KernelLibrary::get(const char* file, const char* name, std::size_t dynamic_shared) {
  auto found = kernels_.find(name);
  if (found == kernels_.end()) {
    Kernel kernel;
    driver_.check(driver_.module_function(&kernel.function, module(file), name),
                  std::string("finding the kernel '") + name + "'");
    driver_.function_attribute(&kernel.registers, kFunctionRegisters, kernel.function);
    driver_.function_attribute(&kernel.local_bytes, kFunctionLocalBytes, kernel.function);
    driver_.function_attribute(&kernel.static_shared_bytes, kFunctionSharedBytes, kernel.function);
    found = kernels_.emplace(name, kernel).first;
  }
  Kernel& kernel = found->second;
  if (dynamic_shared > kernel.dynamic_shared_limit) {
    driver_.check(driver_.function_set_attribute(kernel.function, kFunctionMaxDynamicShared,
                                                 static_cast<int>(dynamic_shared)),
                  "giving " + std::to_string(dynamic_shared) + " bytes of shared memory to '" + name + "'");
    kernel.dynamic_shared_limit = dynamic_shared;
  }
  return kernel;
}

void KernelLibrary::clear() noexcept {
  kernels_.clear();
  for (const auto& entry : modules_) driver_.module_unload(entry.second);
  modules_.clear();
}

}  // namespace softmoe::cuda
