#include "cuda_under_test.h"

#include <cstdlib>
#include <cstring>
#include <memory>

#include "cuda/cuda_device.h"

namespace softmoe::testing {
namespace {

cuda::CudaDevice& device() {
  // Never closed: results of the last test outlive main's locals.
  static const std::shared_ptr<cuda::CudaDevice>& opened =
      *new std::shared_ptr<cuda::CudaDevice>(cuda::CudaDevice::open(0));
  return *opened;
}

class WaitingKernels final : public Kernels {
 public:
#define SOFTMOE_DEFINE(family, kernel)    \
  void run(const kernel& args) override { \
    device().launch(args);                \
    device().synchronize();               \
  }
  SOFTMOE_KERNELS(SOFTMOE_DEFINE)
#undef SOFTMOE_DEFINE
  // Only operations check, on a device of their own.
  SafeRowLists checked(const RowListCheck& check) override { return {check.lists, nullptr}; }
  SafeSelection checked(const SelectionCheck& check) override {
    return {check.selected, check.position, nullptr};
  }
};

}  // namespace

bool tests_cuda() {
  const char* name = std::getenv("SOFTMOE_TEST_DEVICE");
  return name && std::strcmp(name, "cuda") == 0;
}

Kernels& cuda_kernels() {
  static WaitingKernels kernels;
  return kernels;
}

void* allocate_operand(std::size_t bytes) {
  if (!tests_cuda()) return std::malloc(bytes);
  device();  // its context is current on this thread from here on
  const cuda::Driver& driver = cuda::Driver::get();
  void* data = nullptr;
  driver.check(driver.host_allocate(&data, bytes, 0), "allocating page-locked memory");
  return data;
}

void release_operand(void* data) noexcept {
  if (tests_cuda()) {
    cuda::Driver::get().host_free(data);
  } else {
    std::free(data);
  }
}

}  // namespace softmoe::testing
