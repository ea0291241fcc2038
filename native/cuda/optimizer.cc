// Optimiser steps over all parameters: one launch for every 48 tensors.
#include <cstdint>
#include <vector>

#include "cuda/cuda_kernels.h"
#include "cuda/kernels/optimizer_params.h"

namespace softmoe::cuda {

namespace {

constexpr const char* kFile = "optimizer";
constexpr unsigned kThreads = 256;

bool fours(const void* data, std::size_t element) {
  return reinterpret_cast<std::uintptr_t>(data) % (4 * element) == 0;
}

StepTensor step_tensor(const OptimizedTensor& tensor, std::int64_t first_chunk) {
  StepTensor out{};
  out.value = tensor.value;
  out.gradient = tensor.gradient;
  out.first_moment = tensor.first_moment;
  out.second_moment = tensor.second_moment;
  out.bfloat16_copy = tensor.bfloat16_copy;
  out.count = tensor.count;
  out.learning_rate = static_cast<float>(tensor.learning_rate);
  out.weight_decay = static_cast<float>(tensor.weight_decay);
  out.first_chunk = static_cast<std::int32_t>(first_chunk);
  out.aligned = fours(tensor.value, 4) && fours(tensor.gradient, 4) && fours(tensor.first_moment, 4) &&
                fours(tensor.second_moment, 4) && fours(tensor.bfloat16_copy, 2);
  return out;
}

// Calls add(tensor, index, first chunk) for the tensors that are not empty and launch(count, chunks) for each
// run of them that fills a table.
template <class Tensor, class Add, class Launch>
void for_launches(const std::vector<Tensor>& tensors, const Add& add, const Launch& launch) {
  std::int32_t count = 0;
  std::int64_t chunks = 0;
  for (const Tensor& tensor : tensors) {
    if (tensor.count == 0) continue;
    add(tensor, count, chunks);
    chunks += divide_up(tensor.count, kOptimizerChunk);
    if (++count == kTensorsOfLaunch) {
      launch(count, chunks);
      count = 0;
      chunks = 0;
    }
  }
  if (count > 0) launch(count, chunks);
}

template <class Params>
void launch_step(Launcher& launcher, const char* kernel, const std::vector<OptimizedTensor>& tensors,
                 const Buffer& gradient_scale, Params p) {
  p.list.gradient_scale = gradient_scale.as<float>();
  for_launches(
      tensors,
      [&](const OptimizedTensor& tensor, std::int32_t index, std::int64_t first_chunk) {
        p.list.tensors[index] = step_tensor(tensor, first_chunk);
      },
      [&](std::int32_t count, std::int64_t chunks) {
        p.list.count = count;
        launcher.launch(kFile, kernel, {chunks}, kThreads, 0, p);
      });
}

}  // namespace

void CudaKernels::run(const AdamWStep& args) {
  AdamWParams p{};
  p.beta1 = static_cast<float>(args.beta1);
  p.rest1 = static_cast<float>(1 - args.beta1);
  p.beta2 = static_cast<float>(args.beta2);
  p.rest2 = static_cast<float>(1 - args.beta2);
  p.inverse1 = static_cast<float>(1 / args.correction1);
  p.inverse2 = static_cast<float>(1 / args.correction2);
  p.eps = static_cast<float>(args.eps);
  launch_step(launcher_, "adamw", args.tensors, args.gradient_scale, p);
}

void CudaKernels::run(const SgdStep& args) {
  SgdParams p{};
  p.momentum = static_cast<float>(args.momentum);
  p.nesterov = args.nesterov;
  launch_step(launcher_, "sgd", args.tensors, args.gradient_scale, p);
}

void CudaKernels::run(const GlobalNorm& args) {
  std::int64_t total = 0;
  for (const CountedBuffer& tensor : args.tensors) total += divide_up(tensor.count, kOptimizerChunk);
  const Workspace squares = launcher_.workspace_of<float>(total);
  SquaresParams p{};
  p.squares = squares.as<float>();
  for_launches(
      args.tensors,
      [&](const CountedBuffer& tensor, std::int32_t index, std::int64_t first_chunk) {
        p.tensors[index] = {tensor.x.data, tensor.count, static_cast<std::int32_t>(first_chunk),
                            tensor.x.dtype == DType::kBFloat16,
                            fours(tensor.x.data, size_of(tensor.x.dtype))};
      },
      [&](std::int32_t count, std::int64_t chunks) {
        p.count = count;
        launcher_.launch(kFile, "sum_squares", {chunks}, kThreads, 0, p);
        p.first_square += chunks;
      });
  launcher_.launch(kFile, "norm_of_squares", {}, kThreads, 0,
                   NormOfSquares{squares.as<float>(), total, args.norm.as<float>(), args.scale.as<float>(),
                                 args.max_norm});
}

}  // namespace softmoe::cuda
