// make_kernels_<set>(): the kernels of this instruction set. Runs before anybody knows that the processor has
// it only as code for every processor, so this file does without isa.h.
#include "cpu/kernels/cpu_kernels.h"

#define SOFTMOE_JOIN_(a, b) a##b
#define SOFTMOE_JOIN(a, b) SOFTMOE_JOIN_(a, b)

namespace softmoe::cpu {

SOFTMOE_ISA::CpuKernels::~CpuKernels() = default;

std::unique_ptr<Kernels> SOFTMOE_JOIN(make_kernels_, SOFTMOE_ISA)(ThreadPool& pool, Scratch& scratch);
std::unique_ptr<Kernels> SOFTMOE_JOIN(make_kernels_, SOFTMOE_ISA)(ThreadPool& pool, Scratch& scratch) {
  return std::make_unique<SOFTMOE_ISA::CpuKernels>(pool, scratch);
}

}  // namespace softmoe::cpu
