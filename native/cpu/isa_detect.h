// Which instruction sets the CPU kernels were built for and this machine has.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/kernels.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace softmoe::cpu {

// Names of the usable sets, the best one last: sse4, avx2, avx512, avx512bf16, amx, or neon.
const std::vector<std::string>& available_instruction_sets();

// The best one, or the one that the environment variable SOFTMOE_CPU_ISA names. Throws ERR_INVALID_ARGUMENT
// when that one is unknown or not available.
std::string chosen_instruction_set();

// Kernels for one of the available sets.
std::unique_ptr<Kernels> make_kernels(const std::string& instruction_set, ThreadPool& pool, Scratch& scratch);

}  // namespace softmoe::cpu
