// Operations that have no CUDA kernel in this build. A name leaves the list when its kernel is written.
#include <string>

#include "core/error.h"
#include "cuda/cuda_kernels.h"

#define SOFTMOE_UNWRITTEN_KERNELS(X) X(SparsePlan)

namespace softmoe::cuda {

#define SOFTMOE_DEFINE_UNWRITTEN(kernel)                                                        \
  void CudaKernels::run(const kernel&) {                                                        \
    throw Error("ERR_INTERNAL", std::string(kernel::kName) + ": no CUDA kernel in this build"); \
  }
SOFTMOE_UNWRITTEN_KERNELS(SOFTMOE_DEFINE_UNWRITTEN)

}  // namespace softmoe::cuda
