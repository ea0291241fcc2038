// Arguments of the kernels in experts.cu.
#pragma once

#include <cstdint>

#include "core/kernels/elementwise.h"

namespace softmoe::cuda {

// y[i] = dropout(x[i]) for the elements of the rows that experts own: `rows`, or row_end[0] when given.
struct DropRows {
  const void* x;
  void* y;
  const std::int32_t* row_end;
  std::int64_t rows, columns;
  float rate;
  RandomKey key;
};

}  // namespace softmoe::cuda
