// The kernels of a CUDA device. Each `run` is defined in the file of this folder that bears its family's
// name, beside kernels/<family>.cu with the device code.
#pragma once

#include "core/kernels.h"
#include "cuda/launch.h"

namespace softmoe::cuda {

class CudaKernels final : public Kernels {
 public:
  explicit CudaKernels(Launcher& launcher) : launcher_(launcher) {}

#define SOFTMOE_DECLARE(family, kernel) void run(const kernel& args) override;
  SOFTMOE_KERNELS(SOFTMOE_DECLARE)
#undef SOFTMOE_DECLARE
  SafeRowLists checked(const RowListCheck& check) override;
  SafeSelection checked(const SelectionCheck& check) override;

 private:
  Launcher& launcher_;
};

}  // namespace softmoe::cuda
