// Frozen experts are packed for the CPU's products; the operations refuse them before anything gets here.
#include "cuda/cuda_kernels.h"

namespace softmoe::cuda {

namespace {

[[noreturn]] void refuse(const char* operation) {
  throw Error("ERR_DEVICE", std::string(operation) + ": the device 'cuda' has no frozen experts");
}

}  // namespace

void CudaKernels::run(const FreezeExperts&) { refuse(FreezeExperts::kName); }
void CudaKernels::run(const FrozenExpertsForward&) { refuse(FrozenExpertsForward::kName); }

}  // namespace softmoe::cuda
