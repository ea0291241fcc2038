// Runs the tests of the kernels on a CUDA device: SOFTMOE_TEST_DEVICE=cuda. The driver may be an emulated one
// (SOFTMOE_CUDA_DRIVER). Operands are page-locked host memory, which tests and kernels reach by the same
// address.
#pragma once

#include <cstddef>

#include "core/kernels.h"

namespace softmoe::testing {

bool tests_cuda();

// Kernels that return when the device is done and throw its fault.
Kernels& cuda_kernels();

void* allocate_operand(std::size_t bytes);
void release_operand(void* data) noexcept;

template <class T>
struct OperandAllocator {
  using value_type = T;
  OperandAllocator() = default;
  template <class U>
  OperandAllocator(const OperandAllocator<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(allocate_operand(count * sizeof(T))); }
  void deallocate(T* data, std::size_t) noexcept { release_operand(data); }
  bool operator==(const OperandAllocator&) const { return true; }
  bool operator!=(const OperandAllocator&) const { return false; }
};

}  // namespace softmoe::testing
