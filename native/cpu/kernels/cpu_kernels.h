// The CPU's kernels. The files of this folder are compiled once per instruction set, each time into the
// namespace softmoe::cpu::SOFTMOE_ISA; a file includes what it needs, then isa.h, then its code, then
// isa_end.h.
#pragma once

#include <memory>

#include "core/kernels.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace softmoe::cpu::SOFTMOE_ISA {

class CpuKernels final : public Kernels {
 public:
  CpuKernels(ThreadPool& pool, Scratch& scratch) : pool(pool), scratch(scratch) {}
  ~CpuKernels() override;  // defined in make_kernels.cc, so that the table of virtual functions is made there

#define SOFTMOE_DECLARE(family, kernel) void run(const kernel& args) override;
  SOFTMOE_KERNELS(SOFTMOE_DECLARE)
#undef SOFTMOE_DECLARE
  SafeRowLists checked(const RowListCheck& check) override;
  SafeSelection checked(const SelectionCheck& check) override;

 private:
  ThreadPool& pool;
  Scratch& scratch;
};

}  // namespace softmoe::cpu::SOFTMOE_ISA
