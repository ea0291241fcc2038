// The least bytes of global memory that each CUDA kernel must move in a workload of cuda_memory_cases.h.
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.h"

namespace softmoe::testing {

// Wavefronts of shared memory for each that the bytes need: without bank conflicts; where a warp's words lie
// in two padded rows; where indices that come from the data say which words a warp meets.
constexpr double kWithoutConflicts = 1.05, kAcrossRows = 1.1, kByIndex = 3;

struct MemoryBudget {
  const char* kernel;  // '*' stands for the element type's name
  std::int64_t (*least_bytes)(
      std::int64_t s);  // of all its launches, elements having s bytes; null: unbounded
  double most_wavefronts = kWithoutConflicts;
};

struct MemoryWorkload {
  const char* name;
  void (*run)(DType dtype);
  std::vector<MemoryBudget> budgets;
};

const std::vector<MemoryWorkload>& memory_workloads();

}  // namespace softmoe::testing
