// Arguments of the kernels in optimizer.cu. The table of tensors travels with the launch: nothing is
// uploaded, so a step can be part of a captured graph. A list that is too long takes several launches.
#pragma once

#include <cstdint>

namespace softmoe::cuda {

constexpr int kTensorsOfLaunch = 48;            // as many as fit into the 4096 bytes of parameters
constexpr std::int64_t kOptimizerChunk = 4096;  // elements of a block: 16 a thread

struct StepTensor {
  float* value;
  const float* gradient;
  float* first_moment;
  float* second_moment;
  void* bfloat16_copy;  // or null
  std::int64_t count;
  float learning_rate, weight_decay;
  std::int32_t first_chunk, aligned;
};

struct StepTensors {
  StepTensor tensors[kTensorsOfLaunch];
  const float* gradient_scale;  // or null
  std::int32_t count;
};

struct AdamWParams {
  StepTensors list;
  float beta1, rest1, beta2, rest2, inverse1, inverse2, eps;
};

struct SgdParams {
  StepTensors list;
  float momentum;
  bool nesterov;
};

struct SquaredTensor {
  const void* x;
  std::int64_t count;
  std::int32_t first_chunk;
  bool is_bfloat16, aligned;
};

// squares[first_square + chunk] = sum of squares of each chunk.
struct SquaresParams {
  SquaredTensor tensors[kTensorsOfLaunch];
  float* squares;
  std::int64_t first_square;
  std::int32_t count;
};

struct NormOfSquares {
  const float* squares;
  std::int64_t count;
  float* norm;   // or null
  float* scale;  // or null
  double max_norm;
};

}  // namespace softmoe::cuda
