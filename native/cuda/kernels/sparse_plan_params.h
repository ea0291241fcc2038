// Arguments of the kernels in sparse_plan.cu.
#pragma once

#include <cstdint>

namespace softmoe::cuda {

// The semi-dual problem of each group; rows and columns are those of the problem, not of the tensors.
struct SemiDual {
  const float* similarity;  // [groups][columns][rows]
  float* result;            // alike; written by the last pass over the columns
  double* plan;             // alike
  bool* dropped;            // alike, unless columns stay in shared memory
  double* alpha;            // [groups][rows], like both moments
  double* first_moment;
  double* second_moment;
  std::int32_t* done;  // [groups]: the gradient's norm has come within the tolerance
  double row_sum, column_sum, gamma, learning_rate, tolerance;
  double correction1, correction2;  // 1 - beta^iteration
  std::int32_t rows, columns, k;
  bool in_shared, is_last;
};

}  // namespace softmoe::cuda
